"""GoogLeNet for small images: nine Inception modules, each with four branches side by side.

Source: Szegedy et al., Going Deeper with Convolutions, 2015, table 1; Ioffe & Szegedy, Batch
Normalization, 2015 (batch norm, and two 3 x 3 convolutions for a 5 x 5 one). Stem, taps and
initialisation as in FFSD (methods.md 1.2).
Differs: the stem is a single 3 x 3 convolution at full resolution; no auxiliary classifiers, no local
response normalisation, no dropout; the modules' widths stay those of 2015 without batch norm.
"""

import torch
from torch import Tensor, nn

from kdnb.networks.features import Features, Network, initialise_convolutions, staged

STEM = 192
# The rows of the paper's table, its stages 3, 4 and 5; columns as the arguments of Inception.
STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


class Inception(nn.Module):
    """Four branches over the same input, concatenated: (B, C_in, H, W) -> (B, C_out, H, W).

    In their order: 1 x 1 to ``one`` channels; 1 x 1 to ``three_reduced``, 3 x 3 to ``three``; 1 x 1 to
    ``five_reduced``, twice 3 x 3 to ``five``; max-pool, 1 x 1 to ``pooled``. Each ends with a ReLU.
    """

    def __init__(
        self,
        channels_in: int,
        one: int,
        three_reduced: int,
        three: int,
        five_reduced: int,
        five: int,
        pooled: int,
    ) -> None:
        super().__init__()
        self.channels_out = one + three + five + pooled
        self.branches = nn.ModuleList(
            nn.Sequential(*layers)
            for layers in (
                _convolution(channels_in, one, 1),
                _convolution(channels_in, three_reduced, 1) + _convolution(three_reduced, three, 3),
                _convolution(channels_in, five_reduced, 1)
                + _convolution(five_reduced, five, 3)
                + _convolution(five, five, 3),
                (nn.MaxPool2d(3, stride=1, padding=1), *_convolution(channels_in, pooled, 1)),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class GoogLeNet(Network):
    """GoogLeNet, Inception v1 with batch norm.

    The maps are the outputs of modules 3b, 4e and 5b, where the next max-pool or the mean follows:
    concatenated ReLUs, no negatives. 32 x 32 images give 32, 16, 8. Any input size works; pools round
    up, so the reductions are exact where 4 divides it.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.channels, self.reductions, self.classes = (480, 832, 1024), (1, 2, 4), classes
        self.stem = nn.Sequential(*_convolution(3, STEM, 3))
        self.stages = nn.ModuleList(
            _stage(before, table, shrink=shrink)
            for before, table, shrink in zip(
                (STEM, *self.channels[:-1]), STAGES, (False, True, True), strict=True
            )
        )
        self.head = nn.Linear(self.channels[-1], classes)
        initialise_convolutions(self)

    def features(self, images: Tensor) -> Features:
        return staged(self.stem(images), self.stages, self.head)


def _stage(channels_in: int, table: tuple[tuple[int, ...], ...], *, shrink: bool) -> nn.Sequential:
    """The pool opens the stage, so that every stage ends at its tap."""
    layers: list[nn.Module] = [nn.MaxPool2d(3, stride=2, padding=1)] if shrink else []
    for widths in table:
        module = Inception(channels_in, *widths)
        layers.append(module)
        channels_in = module.channels_out
    return nn.Sequential(*layers)


def _convolution(channels_in: int, channels_out: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()
