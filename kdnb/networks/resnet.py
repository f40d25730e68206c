"""Residual networks, and their CIFAR family with three stages and a stem that keeps the resolution.

Source:
    He et al., Deep Residual Learning, 2016, section 4.2. The widths, the shortcuts and the initialisation
    follow the distillation benchmarks; see kdnb/methods/README.md, section Networks.

Differs:
    A shortcut that changes the shape is a 1 x 1 convolution with batch norm, as in those benchmarks. The
    CIFAR networks of the paper pad the shortcut with zeros.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.features import Features, Network, initialise_convolutions, staged


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to a shortcut.

    The module turns a map (B, C_in, H, W) into a map (B, C_out, H / stride, W / stride). A ReLU follows the
    first batch norm and the sum.

    Args:
        channels_in: The number of input channels C_in.

        channels_out: The number of output channels C_out.

        stride: The stride of the first convolution and of the shortcut.
    """

    layers = 2  # convolutions between input and output

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
    """A stem, stages of residual blocks, a mean over positions, and a linear layer.

    The maps are the outputs of the stages, after their last ReLU.

    Args:
        stem: The modules before the first stage.

        block: Makes a residual block from its input channels, its output channels and its stride.

        widths: The number of channels of the stem and of every stage.

        strides: The stride of every stage. Its first block has it.

        blocks: The number of blocks of every stage.

        classes: The number of classes K.
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
        """The number of layers with weights between the images and the logits, shortcuts not counted."""
        return 2 + sum(block.layers for stage in self.stages for block in stage)

    def blocks_at(self, depth: int) -> tuple[int, ...]:
        """The number of blocks in each stage of the network of another depth in the same family.

        Args:
            depth: A number of layers.

        Returns:
            The number of blocks, one for each stage.

        Raises:
            InputError: If the family has no network of that depth with this kind of block.
        """
        raise NotImplementedError

    def features(self, images: Tensor) -> Features:
        return staged(self.stem(images), self.stages, self.head)


class ResNet(ResidualNetwork):
    """A ResNet for CIFAR.

    The maps have 1, 1/2 and 1/4 of the input size. Images must have at least 4 x 4 pixels.

    Args:
        depth: The number of layers, 6n + 2.

        classes: The number of classes K.

        widths: The number of channels of the stem and of the three stages.

    Raises:
        InputError: If ``depth`` is not 6n + 2 with n >= 1.
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
    """The shortcut of a residual block.

    Args:
        channels_in: The number of input channels of the block.

        channels_out: The number of output channels of the block.

        stride: The stride of the block.

    Returns:
        An identity where the shape stays the same, otherwise a 1 x 1 convolution with batch norm.
    """
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    convolution = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def _stage(
    block: Callable[[int, int, int], nn.Module], channels_in: int, channels_out: int, stride: int, blocks: int
) -> nn.Sequential:
    first = block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(block(channels_out, channels_out, 1) for _ in range(1, blocks)))
