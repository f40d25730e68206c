"""The ImageNet ResNets: four stages behind a 7 x 7 stem and a max-pool that reduce the image to a quarter.

Source: He et al., Deep Residual Learning, 2016, table 1.
Differs: a bottleneck's stride is in its 3 x 3 convolution, as in torchvision's networks, whose weights
therefore fit tensor by tensor; the paper has it in the first 1 x 1.
"""

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.resnet import BasicBlock, ResidualNetwork, shortcut


class Bottleneck(nn.Module):
    """1 x 1 to a quarter of the channels, 3 x 3, 1 x 1, each with BN, ReLU between; added to the
    shortcut, then ReLU: (B, C_in, H, W) -> (B, C_out, H', W')."""

    layers = 3  # convolutions from input to output

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
    """An ImageNet ResNet of ``depth`` 18 or 34 (basic blocks), 50 or 101 (bottlenecks).

    The maps are at 1/4, 1/8, 1/16 and 1/32 of the input size, which should be 32 or more; the stem's
    is taken behind the max-pool. Raises InputError for another depth.
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
