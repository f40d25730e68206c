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


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p values of several tests, so that at most one in twenty families has a false finding.

    Args:
        p_values: Of the single tests.

    Returns:
        Holm's adjusted p values in the same order, at most 1. Those below 0.05 are the findings.

    Source:
        Holm, A simple sequentially rejective multiple test procedure, 1979.

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
