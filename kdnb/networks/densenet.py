"""DenseNets for small images: every layer reads all earlier maps of its block and adds a few channels.

Source: Huang et al., Densely Connected Convolutional Networks, 2017, section 3 (the plain variant:
no bottleneck, no compression, no dropout); stem width, taps and initialisation as in FFSD
(methods.md 1.2).
Differs: the stem has 2 x growth channels, which the paper gives only to DenseNet-BC (16 elsewhere); a
ReLU stands in the transitions too.
"""

import torch
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.features import Features, Network, initialise_convolutions, staged


class DenseLayer(nn.Module):
    """BN-ReLU-conv, appended to its own input: (B, C, H, W) -> (B, C + growth, H, W)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(*_preactivated(channels, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.new(x)), dim=1)


class DenseNet(Network):
    """A DenseNet of ``depth`` = 3n + 4 layers, each of which adds ``growth`` channels.

    The stem is a bare convolution. The maps are the raw outputs of the three dense blocks, before the
    batch norm and ReLU that follow, so they hold negatives; they come at 1, 1/2 and 1/4 of the input
    size. The embedding is pooled after the last batch norm and ReLU. Sizes from 4 x 4 work; pools round
    down, so the reductions are exact where 4 divides the size.

    Raises InputError for any other depth, or for a growth below 1.
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
    """The transition opens the stage, so that every stage ends at its tap, the raw dense block."""
    transition = (*_preactivated(channels, channels, 1), nn.AvgPool2d(2)) if shrink else ()
    return nn.Sequential(*transition, *(DenseLayer(channels + growth * i, growth) for i in range(layers)))


def _preactivated(channels_in: int, channels_out: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    return nn.BatchNorm2d(channels_in), nn.ReLU(), convolution
