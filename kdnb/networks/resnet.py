"""Residual networks; the CIFAR family: depth 6n + 2, three stages, a 3 x 3 stem that keeps the resolution.

Source: He et al., Deep Residual Learning, 2016, section 4.2; widths, shortcuts and initialisation
as in the distillation benchmarks (methods.md 1.1).
Differs: the 2016 CIFAR nets pad shortcuts with zeros; here, as in those benchmarks, a shortcut that
changes shape is a 1 x 1 convolution with batch norm.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.features import Features, Network, initialise_convolutions, staged


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, added to the shortcut, then ReLU: (B, C_in, H, W) -> (B, C_out, H', W')."""

    layers = 2  # convolutions from input to output

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.shortcut = shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.shortcut(x))


class ResidualNetwork(Network):
    """A stem, stages of residual blocks, a mean over the positions, a linear head.

    block: makes one of (channels in, channels out, stride). widths: channels of the stem and of every
    stage. strides: of every stage, taken by its first block. blocks: how many every stage has.
    The maps are the stage outputs after their last ReLU.
    """

    def __init__(
        self,
        stem: nn.Sequential,
        block: Callable[[int, int, int], nn.Module],
        *,
        widths: Sequence[int],
        strides: Sequence[int],
        blocks: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        self.channels, self.classes = tuple(widths[1:]), classes
        self.stem = stem
        self.stages = nn.ModuleList(
            _stage(block, *shape) for shape in zip(widths[:-1], widths[1:], strides, blocks, strict=True)
        )
        self.head = nn.Linear(widths[-1], classes)
        initialise_convolutions(self)

    @property
    def depth(self) -> int:
        """Layers with weights on the way from the images to the logits."""
        return 2 + sum(block.layers for stage in self.stages for block in stage)

    def blocks_at(self, depth: int) -> tuple[int, ...]:
        """Blocks of each stage of the family's network of ``depth`` layers, made of the same blocks.

        Raises InputError where the family has none.
        """
        raise NotImplementedError

    def features(self, images: Tensor) -> Features:
        return staged(self.stem(images), self.stages, self.head)


class ResNet(ResidualNetwork):
    """A CIFAR ResNet with ``depth`` = 6n + 2 layers.

    widths: channels of the stem and of the three stages. The maps are at 1, 1/2 and 1/4 of the input
    size; any input size of at least 4 x 4 works. Raises InputError for another depth.
    """

    reductions = (1, 2, 4)

    def __init__(
        self, depth: int, classes: int, *, widths: tuple[int, int, int, int] = (16, 16, 32, 64)
    ) -> None:
        blocks = self.blocks_at(depth)
        stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        super().__init__(stem, BasicBlock, widths=widths, strides=(1, 2, 2), blocks=blocks, classes=classes)

    def blocks_at(self, depth: int) -> tuple[int, ...]:
        if depth < 8 or (depth - 2) % 6:
            raise InputError(f"depth must be 6n + 2 with n >= 1 (8, 14, 20, ...), found {depth}.")
        return ((depth - 2) // 6,) * 3


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """What a block's residual is added to: the input, or where the shape changes a 1 x 1 convolution
    of it with batch norm."""
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    convolution = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def _stage(
    block: Callable[[int, int, int], nn.Module], channels_in: int, channels_out: int, stride: int, blocks: int
) -> nn.Sequential:
    first = block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(block(channels_out, channels_out, 1) for _ in range(1, blocks)))
