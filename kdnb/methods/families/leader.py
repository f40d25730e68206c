"""The leader of FFSD and the fusion module that teaches it. FFSD's Tab. V adds them to other methods.

Source: Li et al., Distilling a Powerful Student Model via Online Knowledge Distillation (FFSD), 2021, section
III-B. Equations and sizes are in ``kdnb/methods/README.md``, section FFSD.
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
    """What ``OnlineDistillation.lead`` returns.

    Attributes:
        terms: The weighted loss terms of the fusion module and of the leader. It is empty without a leader.

        leader: The leader's features, or None without a leader.

        fused: The fused map (B, C, h, w), detached, or None without fusion.
    """

    terms: dict[str, Tensor]
    leader: Features | None
    fused: Tensor | None  # (B, C, h, w)


class Fusion(nn.Module):
    """The fusion module: it encodes the students' concatenated last maps and classifies them.

    It maps (B, m C, h, w) to the fused map (B, C, h, w), which has no negatives, and to logits (B, K).

    Args:
        channels: C, the channels of a student's last map.

        students: m, the number of students.

        classes: K.

    Source:
        FFSD, fig. 3.
    """

    def __init__(self, channels: int, students: int, classes: int) -> None:
        super().__init__()
        self.encoder = separable(students * channels, channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, merged: Tensor) -> tuple[Tensor, Tensor]:
        fused = self.encoder(merged)
        return fused, self.head(fused.mean((2, 3)))


def separable(channels_in: int, channels_out: int) -> nn.Sequential:
    """A depthwise 3 x 3 and a pointwise 1 x 1 convolution, each with batch norm and ReLU.

    The height and the width of the map stay. The encoder of the fusion module has this form and, in the other
    direction, the decoder of the leader.

    Args:
        channels_in: Channels of the input, kept by the depthwise convolution.

        channels_out: Channels of the output.

    Returns:
        A module that maps (B, channels_in, h, w) to (B, channels_out, h, w).
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
    """The students' last maps side by side, detached.

    Args:
        students: The features of m students.

    Returns:
        A map (B, m C, h, w).
    """
    return torch.cat([student.final.detach() for student in students], dim=1)


def attention_distance(maps: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of two unit attention maps.

    Args:
        maps: (B, C, h, w).

        target: (B, C', h, w). The channels may differ.

    Returns:
        A scalar.

    Raises:
        InputError: If the numbers of images or the sizes differ.
    """
    return normalized_mse(attention_map(maps), attention_map(target))
