"""VGG for small images: plain 3 x 3 convolutions with batch norm, in five blocks, and one linear layer.

Source: Simonyan & Zisserman, Very Deep Convolutional Networks, 2015, table 1 (columns A, B, D, E);
vgg8, taps and initialisation as in the distillation benchmarks (methods.md 1.1).
Differs: batch norm after each convolution; the mean over space and a single linear layer replace the
three fully connected ones (the name still counts them); no pool after blocks 4 and 5.
"""

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.features import Features, Network, initialise_convolutions, staged

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # depth: convolutions in each block
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(Network):
    """A VGG of ``depth`` 8, 11, 13, 16 or 19.

    The stem is the first block, at full resolution; the maps are the outputs of the other four, after
    their last ReLU and before the next max-pool. The pools are fixed whatever the input size: one
    before each of the first three maps and none before the fourth, so 32 x 32 images give 16, 8, 4, 4.
    Sizes from 8 x 8 work; pools round down, so the reductions are exact where 8 divides the size.

    Raises InputError for any other depth.
    """

    def __init__(self, depth: int, classes: int) -> None:
        if depth not in CONVOLUTIONS:
            raise InputError(f"depth must be one of {', '.join(map(str, CONVOLUTIONS))}, found {depth}.")
        super().__init__()
        self.channels, self.reductions, self.classes = WIDTHS[1:], (2, 4, 8, 8), classes
        first, *others = CONVOLUTIONS[depth]
        self.stem = _block(3, WIDTHS[0], first)
        self.stages = nn.ModuleList(
            _block(before, after, convolutions, pool=pool)
            for before, after, convolutions, pool in zip(
                WIDTHS[:-1], WIDTHS[1:], others, (True, True, True, False), strict=True
            )
        )
        self.head = nn.Linear(WIDTHS[-1], classes)
        initialise_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Features:
        return staged(self.stem(images), self.stages, self.head)


def _block(channels_in: int, channels_out: int, convolutions: int, *, pool: bool = False) -> nn.Sequential:
    """The pool opens the block, so that every block ends at its tap, its last ReLU."""
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if pool else []
    for channels in (channels_in, *[channels_out] * (convolutions - 1)):
        layers.append(nn.Conv2d(channels, channels_out, 3, padding=1))
        layers += [nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers)
