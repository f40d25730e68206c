"""MobileNetV2 at half width for small images: inverted residual blocks with linear bottlenecks.

Source:
    Sandler et al., MobileNetV2, 2018, table 2, with expansion 6 and width 0.5. The strides, the places of
    the maps and the initialisation follow the distillation benchmarks; see kdnb/methods/README.md, section
    Networks.

Differs:
    ReLU replaces ReLU6. Stage 2 keeps the resolution, because the images are small. The first block has a
    1 x 1 convolution in front as well, with expansion 1. Widths are halved and not rounded to multiples of
    8.
"""

from torch import Tensor, nn

from kdnb.networks.features import Features, Network, initialise_convolutions, staged

STEM, LAST = 16, 1280
# The seven stages of the paper, each as (expansion, channels, blocks, stride of the first block). They are
# in four groups, because the maps are taken after stages 2, 3, 5 and 7.
STAGES = (
    ((1, 8, 1, 1), (6, 12, 2, 1)),
    ((6, 16, 3, 2),),
    ((6, 32, 4, 2), (6, 48, 3, 1)),
    ((6, 80, 3, 2), (6, 160, 1, 1)),
)


class InvertedResidual(nn.Module):
    """A 1 x 1 convolution to more channels, a depthwise 3 x 3 one, and a 1 x 1 one to few channels.

    The module turns a map (B, C_in, H, W) into a map (B, C_out, H / stride, W / stride). The last batch
    norm has no ReLU after it, which makes the bottleneck linear, so the output contains negative values.
    The input is added where the shape stays the same.

    Args:
        channels_in: The number of input channels C_in.

        channels_out: The number of output channels C_out.

        stride: The stride of the depthwise convolution.

        expansion: By how much the first convolution multiplies the number of channels.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * channels_in
        self.expand = _convolution(channels_in, hidden, 1)
        self.depthwise = _convolution(hidden, hidden, 3, stride=stride, groups=hidden)
        self.project = nn.Sequential(
            nn.Conv2d(hidden, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
        )
        self.adds_input = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        bottleneck = self.project(self.depthwise(self.expand(x)))
        return x + bottleneck if self.adds_input else bottleneck


class MobileNetV2(Network):
    """MobileNetV2 with expansion 6 and width 0.5.

    The stem halves the resolution. The maps are the linear bottlenecks at the end of the stages 2, 3, 5 and
    7, and they contain negative values. Images of 32 x 32 pixels give maps of 16, 8, 4 and 2. The embedding
    is the mean over positions after a last 1 x 1 convolution, batch norm and ReLU.

    Images may have any size. Strides round sizes up, so ``reductions`` is exact only for sizes that are
    multiples of 16.

    Args:
        classes: The number of classes K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.channels, self.reductions, self.classes = (12, 16, 48, 160), (2, 4, 8, 16), classes
        self.stem = _convolution(3, STEM, 3, stride=2)
        self.stages = nn.ModuleList(
            _stage(before, settings)
            for before, settings in zip((STEM, *self.channels[:-1]), STAGES, strict=True)
        )
        self.last = _convolution(self.channels[-1], LAST, 1)
        self.head = nn.Linear(LAST, classes)
        initialise_convolutions(self)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Features:
        return staged(self.stem(images), self.stages, self.head, self.last)


def _stage(channels_in: int, settings: tuple[tuple[int, int, int, int], ...]) -> nn.Sequential:
    blocks = []
    for expansion, channels, repeats, first_stride in settings:
        for stride in (first_stride, *[1] * (repeats - 1)):
            blocks.append(InvertedResidual(channels_in, channels, stride, expansion))
            channels_in = channels
    return nn.Sequential(*blocks)


def _convolution(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(
        channels_in, channels_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())
