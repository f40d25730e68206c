"""Did it help? Differences between runs, with their uncertainty."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy import stats

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
