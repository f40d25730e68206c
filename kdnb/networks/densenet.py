"""DenseNets for small images. Every layer reads all earlier maps of its block and adds a few channels.

Source:
    Huang et al., Densely Connected Convolutional Networks, 2017, section 3: the variant without bottleneck,
    without compression and without dropout. The width of the stem, the places of the maps and the
    initialisation follow FFSD; see kdnb/methods/README.md, section Networks.

Differs:
    The stem has 2 x growth channels. The paper uses this width only for DenseNet-BC, and 16 elsewhere.
    Transitions contain a ReLU as well.
"""

import torch
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.features import Features, Network, initialise_convolutions, staged


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3 x 3 convolution, whose output is appended to the input.

    The module turns a map (B, C, H, W) into a map (B, C + growth, H, W).

    Args:
        channels: The number of input channels C.

        growth: The number of channels that the layer adds.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(*_preactivated(channels, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.new(x)), dim=1)


class DenseNet(Network):
    """A DenseNet with three dense blocks.

    The stem is a convolution without batch norm or ReLU. The maps are the outputs of the three dense
    blocks, before the batch norm and ReLU that follow, so they contain negative values. They have 1, 1/2
    and 1/4 of the input size. The embedding is the mean over positions after the last batch norm and ReLU.

    Images must have at least 4 x 4 pixels. Pooling rounds sizes down, so ``reductions`` is exact only for
    sizes that are multiples of 4.

    Args:
        depth: The number of layers, 3n + 4.

        growth: The number of channels that every layer adds.

        classes: The number of classes K.

    Raises:
        InputError: If ``depth`` is not 3n + 4 with n >= 1, or if ``growth`` is below 1.
    """

    def __init__(self, depth: int, growth: int, classes: int) -> None:
        if depth < 7 or (depth - 4) % 3:
            raise InputError(f"depth must be 3n + 4 with n >= 1 (7, 10, 13, ...), found {depth}.")
        if growth < 1:
            raise InputError(f"growth must be at least 1, one channel a layer, found {growth}.")
        super().__init__()
        layers = (depth - 4) // 3
        stem, *widths = (growth * (2 + layers * block) for block in range(4))
        self.channels, self.reductions, self.classes = tuple(widths), (1, 2, 4), classes
        self.stem = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.stages = nn.ModuleList(
            _stage(before, growth, layers, shrink=shrink)
            for before, shrink in zip((stem, *widths[:-1]), (False, True, True), strict=True)
        )
        self.last = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.head = nn.Linear(widths[-1], classes)
        initialise_convolutions(self)

    def features(self, images: Tensor) -> Features:
        return staged(self.stem(images), self.stages, self.head, self.last)


def _stage(channels: int, growth: int, layers: int, *, shrink: bool) -> nn.Sequential:
    """One stage. The transition comes first, so that the stage ends with the map of the dense block."""
    transition = (*_preactivated(channels, channels, 1), nn.AvgPool2d(2)) if shrink else ()
    return nn.Sequential(*transition, *(DenseLayer(channels + growth * i, growth) for i in range(layers)))


def _preactivated(channels_in: int, channels_out: int, kernel: int) -> tuple[nn.Module, ...]:
    """Batch norm, ReLU and a convolution."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    return nn.BatchNorm2d(channels_in), nn.ReLU(), convolution
