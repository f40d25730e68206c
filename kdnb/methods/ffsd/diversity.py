"""Where a student should look if its neighbour looks here, and how the last map teaches the shallow stages.

Source: Li et al., Distilling a Powerful Student Model via Online Knowledge Distillation (FFSD), 2021,
sections III-B (eqs. 7 to 9) and III-C (eqs. 10 to 13). Numbers are those of the authors' code:
``kdnb/methods/README.md``, section FFSD.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.functional import attention_map, mean_squared_error, unit_vectors
from kdnb.method import evaluating
from kdnb.networks import Features, Network


class Diversity(NamedTuple):
    """What the last map (B, C, H, W) of a neighbour asks of a student.

    Attributes:
        attention: The neighbour's attention map, of unit norm.

        task: The positions where that attention exceeds the threshold.

        target: What the student's unit attention map is compared with.

        features: The neighbour's map after the same shift, the target of self-distillation.
    """

    attention: Tensor  # (B, H, W)
    task: Tensor  # (B, H, W), bool
    target: Tensor  # (B, H, W)
    features: Tensor  # (B, C, H, W)


def diversity_of(maps: Tensor, *, threshold: float = 1 / 3, consistent: bool = False) -> Diversity:
    """The diversity target of a neighbour's last maps.

    Let a be the neighbour's unit attention map, and r the norm of its attention before normalisation. The
    floor(threshold H W) positions of lowest attention are background. They keep a, except for the position at
    the threshold, which gets r / 2. At all other positions a becomes r - a, so strong attention turns weak.

    Args:
        maps: The neighbour's last maps (B, C, H, W).

        threshold: Share of positions that are background, between 0 and 1.

        consistent: If True, everything is measured in units of attention, and the target is normalised at the
            end. This variant is ours.

    Returns:
        The target and what belongs to it.

    Raises:
        InputError: If no position would be background.

    Source:
        FFSD, eq. 8.

    Differs:
        As in the authors' code, a has norm 1 but r has not, so the target of the other positions is close to
        r. ``consistent=True`` removes this mixture.
    """
    count = int(threshold * maps[0, 0].numel())
    if count < 1:
        raise InputError(
            f"Last maps of {maps.shape[-2]} x {maps.shape[-1]} positions leave no background at a "
            f"threshold of {threshold:.2f}: shifting attention takes at least 3 positions. Use larger "
            "images, a network that halves them less often, or diversity='none'."
        )
    raw = attention_map(maps)  # (B, H, W)
    norm = raw.flatten(1).norm(dim=1)[:, None, None]
    unit = unit_vectors(raw).view_as(raw)
    start = raw if consistent else unit
    level = start.flatten(1).kthvalue(count, dim=1).values[:, None, None]
    target = (norm / 2 - start) * (start - level).sign() + norm / 2
    change = (target - start) * (1 if consistent else norm)
    features = maps + change[:, None] / maps.shape[1]
    if consistent:
        target = unit_vectors(target).view_as(target)
    return Diversity(unit, start > level, target, features)


def diversity_loss(maps: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference between a student's unit attention map and the diversity target.

    Args:
        maps: The student's last maps (B, C, H, W).

        target: ``Diversity.target``, (B, H, W).

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes do not fit.

    Source:
        FFSD, eq. 9.
    """
    return mean_squared_error(unit_vectors(attention_map(maps)), target.flatten(1))


class SelfDistiller(nn.Module):
    """A chain of blocks that turns the last map into the maps of the shallower stages.

    Each block is a transposed 3 x 3 convolution, batch norm and ReLU. It leads from one stage to the one
    before it.

    Args:
        network: The network whose stages give the shapes.

    Raises:
        InputError: If a stage is neither as large as the next one nor twice as large.

    Source:
        FFSD, fig. 4.

    Differs:
        A block between stages of equal size, such as the last two of VGG, has stride 1. The authors' code has
        no such network.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        channels = (*network.channels[:-1], network.head.in_features)
        strides = [deep // shallow for shallow, deep in pairwise(network.reductions)]
        for stage, (shallow, deep) in enumerate(pairwise(network.reductions), 1):
            if deep not in (shallow, 2 * shallow):
                raise InputError(
                    f"No self-distiller can be built from stage {stage + 1} to stage {stage} of a "
                    f"{type(network).__name__}: they divide the image by {deep} and by {shallow}, and a "
                    "block doubles the size or keeps it. Choose stages that halve, or "
                    "self_distillation='none'."
                )
        sides = zip(channels[:0:-1], channels[-2::-1], reversed(strides), strict=True)
        self.blocks = nn.ModuleList(_upsampling_block(*side) for side in sides)

    def forward(self, last: Tensor) -> tuple[Tensor, ...]:
        """Maps the last map (B, C, h, w) to those of all shallower stages, from shallow to deep."""
        maps = [last]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return tuple(maps[:0:-1])


def _upsampling_block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels_in, channels_out, 3, stride, 1, stride - 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def carried_back(distiller: SelfDistiller, last: Tensor) -> tuple[Tensor, ...]:
    """The maps that the shallow stages should have, given a last map.

    Args:
        distiller: The self-distiller. It runs in eval mode.

        last: A last map (B, C, h, w).

    Returns:
        The maps of the shallower stages, from shallow to deep, without a graph.
    """
    with torch.no_grad(), evaluating(distiller):
        return distiller(last)


def stages(features: Features) -> tuple[Tensor, ...]:
    """The maps that FFSD compares, from shallow to deep.

    Args:
        features: A learner's features.

    Returns:
        The stage maps, where the last one is the map that is averaged to the embedding. In a pre-activation
        network that is the map after the final batch norm and ReLU.
    """
    return (*features.maps[:-1], features.final)


def summed(
    distance: Callable[[Tensor, Tensor], Tensor], ours: Iterable[Tensor], theirs: Iterable[Tensor]
) -> Tensor:
    """The sum of a distance over pairs.

    Args:
        distance: A function of two tensors that returns a scalar.

        ours: The first tensor of each pair.

        theirs: The second tensor of each pair.

    Returns:
        A scalar.

    Raises:
        ValueError: If there are different numbers of tensors.
    """
    return torch.stack([distance(own, other) for own, other in zip(ours, theirs, strict=True)]).sum()
