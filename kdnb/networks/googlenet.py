"""GoogLeNet for small images: nine Inception modules, each with four parallel branches.

Source:
    Szegedy et al., Going Deeper with Convolutions, 2015, table 1. Ioffe and Szegedy, Batch Normalization,
    2015, add batch norm and replace a 5 x 5 convolution by two of 3 x 3. The stem, the places of the maps
    and the initialisation follow FFSD; see kdnb/methods/README.md, section Networks.

Differs:
    The stem is a single 3 x 3 convolution at full resolution. There are no auxiliary classifiers, no local
    response normalisation and no dropout. The modules have the widths of the first paper, not those of the
    second.
"""

import torch
from torch import Tensor, nn

from kdnb.networks.features import Features, Network, initialise_convolutions, staged

STEM = 192
# The rows of the paper's table for its stages 3, 4 and 5. The columns are the arguments of Inception.
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
    """Four branches that read the same input and whose outputs are concatenated.

    The module turns a map (B, C_in, H, W) into a map (B, C_out, H, W), where C_out, kept as
    ``channels_out``, is ``one + three + five + pooled``. Batch norm and a ReLU follow every convolution.

    Args:
        channels_in: The number of input channels C_in.

        one: The channels of the first branch, a 1 x 1 convolution.

        three_reduced: The channels of the 1 x 1 convolution with which the second branch starts.

        three: The channels of the 3 x 3 convolution with which the second branch ends.

        five_reduced: The channels of the 1 x 1 convolution with which the third branch starts.

        five: The channels of the two 3 x 3 convolutions with which the third branch ends. They stand for
            one 5 x 5 convolution.

        pooled: The channels of the fourth branch, a 3 x 3 max-pooling and a 1 x 1 convolution.
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
    """GoogLeNet, that is Inception v1 with batch norm.

    The maps are the outputs of the modules 3b, 4e and 5b, the last ones before a max-pooling or the mean.
    They are concatenated outputs of ReLUs, so there are no negative values. Images of 32 x 32 pixels give
    maps of 32, 16 and 8.

    Images may have any size. Pooling rounds sizes up, so ``reductions`` is exact only for sizes that are
    multiples of 4.

    Args:
        classes: The number of classes K.
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
    """One stage. The pooling comes first, so that the stage ends with its map."""
    layers: list[nn.Module] = [nn.MaxPool2d(3, stride=2, padding=1)] if shrink else []
    for widths in table:
        module = Inception(channels_in, *widths)
        layers.append(module)
        channels_in = module.channels_out
    return nn.Sequential(*layers)


def _convolution(channels_in: int, channels_out: int, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()
