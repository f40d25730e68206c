"""The numbers behind the pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from kdnb.errors import InputError


class Interval(NamedTuple):
    """A mean, with the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def paired_difference(treated: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Mean of ``treated - baseline`` over runs paired by seed, with Student's t interval.

    Pairing removes what a seed does to both (the start, the order, the pictures chosen), which is
    usually most of the spread. Raises InputError unless both have the same number, at least 2.
    """
    if len(treated) != len(baseline) or len(treated) < 2:
        raise InputError(
            f"Paired runs come in equal numbers, at least 2; found {len(treated)} and {len(baseline)}."
        )
    difference = torch.tensor(treated, dtype=torch.float64) - torch.tensor(baseline, dtype=torch.float64)
    count, mean = len(difference), difference.mean().item()
    half = float(stats.t.ppf(0.975, count - 1)) * difference.std().item() / count**0.5
    return Interval(mean, mean - half, mean + half)


def class_similarity(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Which classes a network finds alike: (N, K) soft labels and (N,) labels -> (K, K).

    Entry (a, b) is the mean probability that pictures of class a give to class b, made symmetric by
    averaging with (b, a); the diagonal is 0. Every class needs at least one picture.
    """
    classes = probabilities.shape[1]
    rows = torch.stack([probabilities[labels == label].mean(0) for label in range(classes)])
    return ((rows + rows.T) / 2).fill_diagonal_(0)


def siblings_found(similarity: Tensor, families: Sequence[int]) -> float:
    """Share of classes whose most similar other class is of their own family. Chance for families
    of two among K classes: 1 / (K - 1)."""
    family = torch.tensor(families)
    nearest = similarity.clone().fill_diagonal_(float("-inf")).argmax(1)
    return (family[nearest] == family).double().mean().item()
