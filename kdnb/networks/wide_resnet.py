"""Wide ResNets for small images: three stages, with batch norm and ReLU before each convolution.

Source:
    Zagoruyko and Komodakis, Wide Residual Networks, 2016, table 1, and for the order of the layers He et
    al., Identity Mappings in Deep Residual Networks, 2016. The places of the maps and the initialisation
    follow the distillation benchmarks; see kdnb/methods/README.md, section Networks.
"""

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.features import Features, Network, initialise_convolutions, staged


class PreactivationBlock(nn.Module):
    """Twice batch norm, ReLU and 3 x 3 convolution, added to a shortcut.

    The module turns a map (B, C_in, H, W) into a map (B, C_out, H / stride, W / stride). Nothing follows
    the sum, so the output contains negative values. The next batch norm and ReLU belong to the next block.

    Args:
        channels_in: The number of input channels C_in.

        channels_out: The number of output channels C_out.

        stride: The stride of the first convolution and of the shortcut.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        residual = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        # An identity shortcut passes on the input itself. A convolution reads it after batch norm and ReLU.
        return residual + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(Network):
    """A Wide ResNet.

    The stem is a convolution without batch norm or ReLU. The maps are the sums at the end of each stage,
    before any batch norm or ReLU, so they contain negative values. They have 1, 1/2 and 1/4 of the input
    size. The embedding is the mean over positions after the last batch norm and ReLU.

    Images may have any size. Strides round sizes up, so ``reductions`` is exact only for sizes that are
    multiples of 4.

    Args:
        depth: The number of layers, 6n + 4.

        width: How many times 16, 32 and 64 channels the three stages have.

        classes: The number of classes K.

    Raises:
        InputError: If ``depth`` is not 6n + 4 with n >= 1, or if ``width`` is below 1.
    """

    def __init__(self, depth: int, width: int, classes: int) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise InputError(f"depth must be 6n + 4 with n >= 1 (10, 16, 22, ...), found {depth}.")
        if width < 1:
            raise InputError(f"width must be at least 1, the narrowest Wide ResNet, found {width}.")
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.channels, self.reductions, self.classes = widths[1:], (1, 2, 4), classes
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        blocks = (depth - 4) // 6
        self.stages = nn.ModuleList(
            _stage(before, after, blocks, stride)
            for before, after, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
        )
        self.last = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.head = nn.Linear(widths[-1], classes)
        initialise_convolutions(self)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Features:
        return staged(self.stem(images), self.stages, self.head, self.last)


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreactivationBlock(channels_in, channels_out, stride)
    others = (PreactivationBlock(channels_out, channels_out, 1) for _ in range(1, blocks))
    return nn.Sequential(first, *others)
