"""The leader of FFSD, and the fusion module that teaches it; Tab. V adds them to other methods.

Source: Li et al., Distilling a Powerful Student Model via Online Knowledge Distillation (FFSD), 2021,
section III-B.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdnb.functional import attention_map, normalized_mse
from kdnb.networks import Features
from kdnb.networks.features import initialise_convolutions

LEADERS = ("none", "ensemble", "fusion")


class LeaderPass(NamedTuple):
    """What a leader's pass gives besides its loss terms."""

    terms: dict[str, Tensor]
    leader: Features | None
    fused: Tensor | None  # (B, C, h, w), the fused map; None without fusion


class Fusion(nn.Module):
    """Encodes the students' concatenated last maps, and classifies: the teacher of the leader.

    (B, m C, h, w) -> fused map (B, C, h, w), no negatives, and logits (B, K). Source: FFSD, fig. 3.
    """

    def __init__(self, channels: int, students: int, classes: int) -> None:
        super().__init__()
        self.encoder = separable(students * channels, channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, merged: Tensor) -> tuple[Tensor, Tensor]:
        fused = self.encoder(merged)
        return fused, self.head(fused.mean((2, 3)))


def separable(channels_in: int, channels_out: int) -> nn.Sequential:
    """Depthwise 3 x 3, batch norm, ReLU; pointwise 1 x 1, batch norm, ReLU: the size stays.

    Encoder of the fusion module and, the other way round, decoder of the leader.
    """
    layers = nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False),
        *(nn.BatchNorm2d(channels_in), nn.ReLU()),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        *(nn.BatchNorm2d(channels_out), nn.ReLU()),
    )
    initialise_convolutions(layers)
    return layers


def merge(students: Sequence[Features]) -> Tensor:
    """The students' last maps side by side, detached: (B, m C, h, w)."""
    return torch.cat([student.final.detach() for student in students], dim=1)


def attention_distance(maps: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of unit attention maps (B, C, h, w), whose channels may differ: a scalar."""
    return normalized_mse(attention_map(maps), attention_map(target))
