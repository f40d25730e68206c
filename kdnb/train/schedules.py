"""Learning-rate schedules: a factor of the learning rate as a function of progress in [0, 1)."""

from collections.abc import Callable
from math import cos, pi

Schedule = Callable[[float], float]


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return (1 + cos(pi * progress)) / 2


def warm_cosine(progress: float) -> float:
    """From 0 to 1 in a straight line over the first fifth, then from 1 to 0 along half a cosine.

    Args:
        progress: In [0, 1).

    Example:
        >>> warm_cosine(0.0), warm_cosine(0.1), warm_cosine(0.2)
        (0.0, 0.5, 1.0)
    """
    return progress / WARM if progress < WARM else cosine((progress - WARM) / (1 - WARM))


def drops(*at: float, factor: float = 0.1) -> Schedule:
    """A schedule that multiplies the learning rate at some points of progress.

    Args:
        at: The points, in [0, 1).

        factor: What it multiplies by at each.

    Example:
        >>> half_way = drops(0.5)
        >>> half_way(0.4), half_way(0.5)
        (1.0, 0.1)
    """
    return lambda progress: factor ** sum(progress >= point for point in at)


WARM = 0.2  # share of the training in which the rate of ``warm_cosine`` rises

SCHEDULES: dict[str, Schedule] = {
    "cosine": cosine,
    "warm-cosine": warm_cosine,
    "benchmark": drops(150 / 240, 180 / 240, 210 / 240),  # methods/README.md, section Schedules
}
