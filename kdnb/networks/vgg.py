"""VGG networks for small images: five blocks of 3 x 3 convolutions with batch norm, and one linear layer.

Source:
    Simonyan and Zisserman, Very Deep Convolutional Networks, 2015, table 1, columns A, B, D and E. The
    smaller vgg8, the places of the maps and the initialisation follow the distillation benchmarks; see
    kdnb/methods/README.md, section Networks.

Differs:
    Batch norm follows each convolution. A mean over positions and a single linear layer replace the three
    fully connected layers, although the name still counts these. There is no pooling after blocks 4 and 5.
"""

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.features import Features, Network, initialise_convolutions, staged

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # the number of convolutions in each block, by depth
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(Network):
    """A VGG network.

    The stem is the first block, at full resolution. The maps are the outputs of the other four blocks,
    after their last ReLU and before the next max-pooling. For every image size there is one pooling before
    each of the first three maps and none before the fourth, so images of 32 x 32 pixels give maps of 16, 8,
    4 and 4.

    Images must have at least 8 x 8 pixels. Pooling rounds sizes down, so ``reductions`` is exact only for
    sizes that are multiples of 8.

    Args:
        depth: 8, 11, 13, 16 or 19.

        classes: The number of classes K.

    Raises:
        InputError: If there is no VGG of that depth.
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
    """One block. The pooling comes first, so that the block ends with its last ReLU, which is its map."""
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if pool else []
    for channels in (channels_in, *[channels_out] * (convolutions - 1)):
        layers.append(nn.Conv2d(channels, channels_out, 3, padding=1))
        layers += [nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers)
