"""ShuffleNetV2 1x for small images.

Half of the channels pass each unit unchanged. Then all channels are shuffled.

Source:
    Ma et al., ShuffleNet V2, 2018, figure 3 (c) and (d) and table 5. The stem and the places of the maps
    follow the distillation benchmarks; see kdnb/methods/README.md, section Networks. Weights start from
    PyTorch's defaults.

Differs:
    The stem is a 1 x 1 convolution at full resolution, and there is no max-pooling after it.
"""

import torch
from torch import Tensor, nn

from kdnb.networks.features import Features, Network, staged

STEM, WIDTHS, LAST = 24, (116, 232, 464), 1024
UNITS = (4, 8, 4)  # in each stage, counting the unit that halves the resolution


def shuffled(x: Tensor) -> Tensor:
    """Interleaves the two halves of the channels.

    Args:
        x: A map (B, C, H, W) with an even number of channels.

    Returns:
        A map of the same shape.

    Example:
        >>> shuffled(torch.arange(6.0).view(1, 6, 1, 1)).flatten()
        tensor([0., 3., 1., 4., 2., 5.])
    """
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Unit(nn.Module):
    """A unit that keeps the shape (B, C, H, W) of its input.

    Half of the channels stay unchanged and half pass through a branch. Then all are shuffled.

    Args:
        channels: The number of channels C, an even number.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        untouched, used = x.chunk(2, dim=1)
        return shuffled(torch.cat((untouched, self.branch(used)), dim=1))


class DownsamplingUnit(nn.Module):
    """A unit that halves the resolution: (B, C_in, H, W) becomes (B, C_out, H / 2, W / 2).

    All channels pass through two branches of stride 2. Their outputs are concatenated and shuffled.

    Args:
        channels_in: The number of input channels C_in.

        channels_out: The number of output channels C_out, an even number.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.short_branch = nn.Sequential(
            *_depthwise(channels_in, stride=2), *_pointwise(channels_in, channels_out // 2)
        )
        self.branch = _branch(channels_in, channels_out // 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return shuffled(torch.cat((self.short_branch(x), self.branch(x)), dim=1))


class ShuffleNetV2(Network):
    """ShuffleNetV2 at width 1x.

    The maps are the outputs of the three stages, after the shuffle. All channels went through a ReLU
    before, so there are no negative values. Images of 32 x 32 pixels give maps of 16, 8 and 4. The
    embedding is the mean over positions after a last 1 x 1 convolution, batch norm and ReLU.

    Images may have any size. Strides round sizes up, so ``reductions`` is exact only for sizes that are
    multiples of 8.

    Args:
        classes: The number of classes K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.channels, self.reductions, self.classes = WIDTHS, (2, 4, 8), classes
        self.stem = nn.Sequential(*_pointwise(3, STEM))
        self.stages = nn.ModuleList(
            nn.Sequential(DownsamplingUnit(before, after), *(Unit(after) for _ in range(1, units)))
            for before, after, units in zip((STEM, *WIDTHS[:-1]), WIDTHS, UNITS, strict=True)
        )
        self.last = nn.Sequential(*_pointwise(WIDTHS[-1], LAST))
        self.head = nn.Linear(LAST, classes)

    def features(self, images: Tensor) -> Features:
        return staged(self.stem(images), self.stages, self.head, self.last)


def _branch(channels_in: int, channels_out: int, *, stride: int) -> nn.Sequential:
    """The branch that computes: 1 x 1, depthwise 3 x 3 and 1 x 1 convolutions."""
    return nn.Sequential(
        *_pointwise(channels_in, channels_out),
        *_depthwise(channels_out, stride=stride),
        *_pointwise(channels_out, channels_out),
    )


def _pointwise(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


def _depthwise(channels: int, *, stride: int) -> tuple[nn.Module, ...]:
    """A depthwise convolution and batch norm. No ReLU follows, as in the paper."""
    convolution = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return convolution, nn.BatchNorm2d(channels)
