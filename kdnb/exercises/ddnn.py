"""Exercises of notebook 07: what the full network teaches its sub-nets, and how a network runs at a depth."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import Tensor

from kdnb.exercises import depth
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, value_and_gradients
from kdnb.functional import attention_map, kd_loss, mean_squared_error, normalized_mse
from kdnb.methods.ddnn import embedded_attention_loss


def embedded_soft(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Computes the sum of DDNN's soft terms.

    Args:
        logits: Logits of the full network, then of each sub-net, each of shape (B, K).

        temperature: Temperature T of all softmaxes.

    Returns:
        The loss, a scalar. Its gradient does not reach the full network.
    """
    full, *subnets = logits
    return sum(kd_loss(subnet, full.detach(), temperature) for subnet in subnets)


def embedded_attention(subnet: Sequence[Tensor], full: Sequence[Tensor]) -> Tensor:
    """Computes DDNN's attention term for one sub-net, without its weight.

    Args:
        subnet: The sub-net's maps at the end of every stage, each of shape (B, C, H, W).

        full: The full network's maps at the end of every stage, of the same shapes.

    Returns:
        The loss, a scalar.
    """
    return embedded_attention_loss(SimpleNamespace(maps=subnet), SimpleNamespace(maps=full))


def _probe_soft(function) -> list[Tensor]:
    return value_and_gradients(
        lambda *logits: function(list(logits), 3.0), *(normal(seed, 6, 5, std=2) for seed in (0, 1, 2))
    )


def _probe_attention(function) -> list[Tensor]:
    shapes = (2, 3, 6, 6), (2, 4, 3, 3), (2, 8, 2, 2)
    own, full = ([normal(seed + n, *shape) for n, shape in enumerate(shapes)] for seed in (10, 14))
    own[0][1], full[1][0] = 5 * own[0][1], 3 * full[1][0]  # one picture with stronger maps in each
    return value_and_gradients(lambda *maps: function(list(maps[:3]), list(maps[3:])), *own, *full)


def _summed(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """Returns an attention term that sums ``distance`` over the stages."""
    return lambda own, full: sum(distance(a, b) for a, b in zip(own, full, strict=True))


def _stage_distance(own: Tensor, full: Tensor) -> Tensor:
    return normalized_mse(attention_map(own), attention_map(full.detach()))


EXERCISES = {
    **depth.EXERCISES,
    "embedded_soft": Exercise(
        reference=embedded_soft,
        probe=_probe_soft,
        mutants=(
            Mutant(
                "not detached",
                lambda logits, T: sum(kd_loss(own, logits[0], T) for own in logits[1:]),
                "the value is right, but the full net is pulled towards its sub-nets; detach its logits.",
            ),
            Mutant(
                "a chain",
                lambda logits, T: sum(kd_loss(a, b.detach(), T) for b, a in pairwise(logits)),
                "every net learns from the next deeper one; in EKD the full net teaches all of them.",
            ),
            Mutant(
                "mean over the sub-nets",
                lambda logits, T: embedded_soft(logits, T) / (len(logits) - 1),
                "you took the mean; each sub-net has its own term with its own weight, so sum the terms.",
            ),
            Mutant(
                "taught by the ensemble",
                lambda logits, T: sum(
                    kd_loss(own, torch.stack(list(logits)).mean(0).detach(), T) for own in logits[1:]
                ),
                "the mean of all logits teaches a group of peers, as in notebook 05; here the full net is "
                "the teacher.",
            ),
            Mutant(
                "without T squared",
                lambda logits, T: embedded_soft(logits, T) / T**2,
                "gradients shrink like 1/T²; kd_loss multiplies by T² to undo that.",
            ),
            Mutant(
                "other way round",
                lambda logits, T: sum(kd_loss(logits[0].detach(), own, T) for own in logits[1:]),
                "that is KL(sub-net || full); the full net is the target, so use kd_loss(own, full, T).",
            ),
        ),
        advice="full, *subnets = logits; sum(kd_loss(own, full.detach(), T) for own in subnets).",
    ),
    "embedded_attention": Exercise(
        reference=embedded_attention,
        probe=_probe_attention,
        mutants=(
            Mutant(
                "not detached",
                _summed(lambda a, b: normalized_mse(attention_map(a), attention_map(b))),
                "the value is right, but the full net's maps move towards the sub-net's; detach them.",
            ),
            Mutant(
                "mean over the stages",
                lambda own, full: embedded_attention(own, full) / len(own),
                "you took the mean over the stages; every stage has its own term, so sum the terms.",
            ),
            Mutant(
                "last stage only",
                lambda own, full: _stage_distance(own[-1], full[-1]),
                "you compare the last stage only; maps of all depths have equal sizes at the end of every "
                "stage, so compare every stage.",
            ),
            Mutant(
                "not of unit norm",
                _summed(lambda a, b: mean_squared_error(attention_map(a), attention_map(b.detach()))),
                "the attention maps keep their strength, so a picture with strong attention counts more; "
                "normalized_mse compares maps of unit length.",
            ),
            Mutant(
                "raw maps",
                _summed(lambda a, b: normalized_mse(a, b.detach())),
                "you compare the maps with all their channels; attention says where, not what, so use "
                "attention_map first.",
            ),
            Mutant(
                "summed over the positions",
                _summed(lambda a, b: a[0, 0].numel() * _stage_distance(a, b)),
                "you summed over the positions; the loss is a mean over them, and its large weight makes up"
                " for that.",
            ),
        ),
        advice=(
            "sum(normalized_mse(attention_map(a), attention_map(b.detach())) for a, b in zip(subnet, full))."
        ),
    ),
}

QUESTIONS = {
    "cut": "388a2ae44150",
    "parameters": "625deb3b8920",
    "where_they_part": "6360d5d8c207",
}
