"""ResNets for ImageNet: four stages after a stem that reduces the image to a quarter of its size.

Source:
    He et al., Deep Residual Learning, 2016, table 1.

Differs:
    The stride of a bottleneck block is in its 3 x 3 convolution, as in torchvision. The paper has it in the
    first 1 x 1 convolution. The weights of torchvision's networks therefore fit tensor by tensor.
"""

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.resnet import BasicBlock, ResidualNetwork, shortcut


class Bottleneck(nn.Module):
    """Three convolutions with a quarter of the channels in the middle, added to a shortcut.

    The module turns a map (B, C_in, H, W) into a map (B, C_out, H / stride, W / stride). The convolutions
    are 1 x 1, 3 x 3 and 1 x 1. Batch norm follows each of them. A ReLU follows the first two batch norms
    and the sum.

    Args:
        channels_in: The number of input channels C_in.

        channels_out: The number of output channels C_out.

        stride: The stride of the 3 x 3 convolution and of the shortcut.
    """

    layers = 3  # convolutions between input and output

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        width = channels_out // 4
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu3 = nn.ReLU()
        self.shortcut = shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        x_in, x = x, self.relu1(self.bn1(self.conv1(x)))
        residual = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(x)))))
        return self.relu3(residual + self.shortcut(x_in))


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class ImageNetResNet(ResidualNetwork):
    """A ResNet for ImageNet.

    The maps have 1/4, 1/8, 1/16 and 1/32 of the input size, which should be at least 32 pixels. The output
    of the stem is taken after its max-pooling.

    Args:
        depth: 18 or 34, which are made of basic blocks, or 50 or 101, which are made of bottlenecks.

        classes: The number of classes K.

    Raises:
        InputError: If there is no ResNet of that depth.
    """

    reductions = (4, 8, 16, 32)

    def __init__(self, depth: int, classes: int) -> None:
        if depth not in DEPTHS:
            raise InputError(f"depth must be one of {', '.join(map(str, DEPTHS))}, found {depth}.")
        block, blocks = DEPTHS[depth]
        last = 512 if block is BasicBlock else 2048
        stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = (64, last // 8, last // 4, last // 2, last)
        super().__init__(stem, block, widths=widths, strides=(1, 2, 2, 2), blocks=blocks, classes=classes)

    def blocks_at(self, depth: int) -> tuple[int, ...]:
        mine = type(self.stages[0][0])
        family = {layers: blocks for layers, (block, blocks) in DEPTHS.items() if block is mine}
        if depth not in family:
            raise InputError(
                f"ResNets of {mine.__name__}s have {' or '.join(map(str, family))} layers, found {depth}."
            )
        return family[depth]
