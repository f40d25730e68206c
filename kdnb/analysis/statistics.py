"""Differences between runs, with their uncertainty."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy import stats

from kdnb.errors import InputError


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval.

    Attributes:
        mean: The mean.

        low: The lower end of the interval.

        high: The upper end of the interval.
    """

    mean: float
    low: float
    high: float


def paired_difference(treated: Sequence[float], baseline: Sequence[float]) -> Interval:
    """The mean difference of runs that are paired by their seed, with Student's t interval.

    A seed determines the initial weights, the order of the images and which images are chosen. Pairing
    removes the effect of the seed that both runs share, which is usually most of the variance.

    Args:
        treated: The results of the runs with the method of interest.

        baseline: The results of the runs without it, with the same seeds in the same order.

    Returns:
        The mean of ``treated - baseline`` and its interval.

    Raises:
        InputError: If the numbers of results differ or are below 2.

    Example:
        >>> result = paired_difference([71.0, 73.0, 72.0], [70.0, 71.0, 71.5])
        >>> [round(value, 2) for value in result]
        [1.17, -0.73, 3.06]
    """
    if len(treated) != len(baseline) or len(treated) < 2:
        raise InputError(
            f"Paired runs come in equal numbers, at least 2; found {len(treated)} and {len(baseline)}."
        )
    difference = torch.tensor(treated, dtype=torch.float64) - torch.tensor(baseline, dtype=torch.float64)
    count, mean = len(difference), difference.mean().item()
    half = float(stats.t.ppf(0.975, count - 1)) * difference.std().item() / count**0.5
    return Interval(mean, mean - half, mean + half)
