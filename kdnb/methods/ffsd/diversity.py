"""Where a student should look when its neighbour looks here, and how the last map teaches shallow ones.

Source: Li et al., Distilling a Powerful Student Model via Online Knowledge Distillation (FFSD), 2021,
sections III-B (eqs. 7 to 9) and III-C (eqs. 10 to 13); numbers as in the authors' code.
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
    """What a neighbour's last map (B, C, H, W) asks of a student.

    attention: the neighbour's, of unit norm. task: where it exceeds the threshold. target: what the
    student's unit attention is compared with. features: the neighbour's map, moved by the same shift.
    """

    attention: Tensor  # (B, H, W)
    task: Tensor  # (B, H, W), bool
    target: Tensor  # (B, H, W)
    features: Tensor  # (B, C, H, W)


def diversity_of(maps: Tensor, *, threshold: float = 1 / 3, consistent: bool = False) -> Diversity:
    """The diversity target (eq. 8) of a neighbour's last maps (B, C, H, W).

    Of H W positions the floor(threshold H W) of lowest attention are background and keep it, but for
    the last of them, which gets r / 2; at the others strong attention turns weak: a becomes r - a,
    where r is the norm of the attention before it was normalised. consistent (ours): everything
    is in units of attention, and the target is normalised at the end.

    Raises InputError where no position would be background.
    Differs: as in the code, a has norm 1 but r has not, so that task positions aim at r - a, near r.
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
    """Mean squared difference of the unit attention of ``maps`` (B, C, H, W) and ``target`` (B, H, W):
    a scalar. Source: eq. 9."""
    return mean_squared_error(unit_vectors(attention_map(maps)), target.flatten(1))


class SelfDistiller(nn.Module):
    """Carries the last map back to the shallower stages: (B, C, h, w) -> the maps of the others.

    A block a stage: transposed convolution, batch norm, ReLU. Source: FFSD, fig. 4.

    Raises InputError where a stage is neither as large as the one behind it nor twice as large.
    Differs: stages of equal size (the last two of VGG) have a block of stride 1.
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
        self.blocks = nn.ModuleList(_upward(*side) for side in sides)

    def forward(self, last: Tensor) -> tuple[Tensor, ...]:
        """From shallow to deep, without the last."""
        maps = [last]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return tuple(maps[:0:-1])


def _upward(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(channels_in, channels_out, 3, stride, 1, stride - 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def carried_back(distiller: SelfDistiller, last: Tensor) -> tuple[Tensor, ...]:
    """What the shallow stages should look like for ``last``: in eval mode, without a graph."""
    with torch.no_grad(), evaluating(distiller):
        return distiller(last)


def stages(features: Features) -> tuple[Tensor, ...]:
    """The maps that FFSD looks at: the last one is what is averaged to the embedding, so that a
    pre-activation network shows it after its last batch norm and ReLU."""
    return (*features.maps[:-1], features.final)


def summed(
    distance: Callable[[Tensor, Tensor], Tensor], ours: Iterable[Tensor], theirs: Iterable[Tensor]
) -> Tensor:
    """``distance`` of each pair, added up."""
    return torch.stack([distance(own, other) for own, other in zip(ours, theirs, strict=True)]).sum()
