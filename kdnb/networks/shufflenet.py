"""ShuffleNetV2 1x for small images: half the channels pass each unit untouched, then all are shuffled.

Source: Ma et al., ShuffleNet V2, 2018, figure 3 (c) and (d), table 5; stem and taps as in the
distillation benchmarks (methods.md 1.1). Initialisation: PyTorch's defaults.
Differs: the stem is a 1 x 1 convolution at full resolution, without the max-pool.
"""

import torch
from torch import Tensor, nn

from kdnb.networks.features import Features, Network, staged

STEM, WIDTHS, LAST = 24, (116, 232, 464), 1024
UNITS = (4, 8, 4)  # in each stage, the one that halves the resolution included


def shuffled(x: Tensor) -> Tensor:
    """The two halves of the channels interleaved: 0 1 2 3 becomes 0 2 1 3. (B, C, H, W) -> the same."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Unit(nn.Module):
    """Half the channels untouched, half through a branch, shuffled: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        untouched, used = x.chunk(2, dim=1)
        return shuffled(torch.cat((untouched, self.branch(used)), dim=1))


class DownsamplingUnit(nn.Module):
    """All channels through two branches of stride 2: (B, C_in, H, W) -> (B, C_out, H / 2, W / 2)."""

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

    The maps are the outputs of the three stages, each half of their channels after a ReLU and shuffled:
    no negatives. 32 x 32 images give 16, 8, 4. The embedding is pooled after a last 1 x 1 convolution,
    batch norm and ReLU. Any input size works; strides round up, so the reductions are exact where 8
    divides it.
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
    return nn.Sequential(
        *_pointwise(channels_in, channels_out),
        *_depthwise(channels_out, stride=stride),
        *_pointwise(channels_out, channels_out),
    )


def _pointwise(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


def _depthwise(channels: int, *, stride: int) -> tuple[nn.Module, ...]:
    """No ReLU follows a depthwise convolution."""
    convolution = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return convolution, nn.BatchNorm2d(channels)
