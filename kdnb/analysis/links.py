"""How strongly, and in which direction, gradients and maps pass through the links of ECD.

ECD links every convolution of the student to the convolution of the teacher that was made from it. The
functions here turn what ``kdnb.methods.ECD.link_gradients`` measures into numbers.
"""

from collections.abc import Mapping

import pandas as pd
from torch import Tensor

from kdnb.functional import cosine_similarity


def link_norms(gradients: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> pd.DataFrame:
    """Lengths of the gradients that arrive at every convolution of the student.

    Args:
        gradients: What ``ECD.link_gradients`` returns: for the path of each convolution a triple
            ``(own, total, label)`` of gradients (B, C, H, W) with respect to its output.

    Returns:
        A table with one row for each convolution, in the order given, and three columns. ``label`` is the
        Euclidean norm of the gradient of the student's own cross entropy. ``own`` is that of the teacher's
        cross entropy through this convolution's link alone, and ``total`` that of the teacher's cross
        entropy through all links. Each gradient counts as one vector over the whole batch.
    """
    rows = {
        path: {"label": label.norm().item(), "own": own.norm().item(), "total": total.norm().item()}
        for path, (own, total, label) in gradients.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["label", "own", "total"])


def link_agreement(gradients: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> pd.Series:
    """Whether the teacher's gradient points where the gradient of the labels points.

    The measure is the cosine between the teacher's gradient through all links and the gradient of the
    student's own cross entropy. It is computed in float64: the terms of a cosine near 0 cancel, and in
    float32 the sixth digit would depend on the machine.

    Args:
        gradients: What ``ECD.link_gradients`` returns, as in ``link_norms``. Each gradient (B, C, H, W)
            counts as one vector over the whole batch.

    Returns:
        The cosine for each convolution, by its path, from -1 to 1: 1 for the same direction, 0 for
        perpendicular directions.
    """
    cosines = {
        path: cosine_similarity(_as_one_sample(total), _as_one_sample(label)).item()
        for path, (_, total, label) in gradients.items()
    }
    return pd.Series(cosines, dtype=float)


def link_share(linked: Tensor, own: Tensor) -> float:
    """The share of the variance of a teacher's map that comes through its link.

    In ECD the output of a teacher's convolution is a sum, ``own + linked``. The variance of a part is
    taken over images and positions and averaged over the channels. The covariance of the two parts is
    left aside.

    Args:
        linked: The part that comes from the student through the link, (B, C, H, W).

        own: The part that the teacher's convolution computes by itself, (B, C, H, W).

    Returns:
        The variance of ``linked`` divided by the sum of both variances, from 0 to 1. At 0.5 the two
        parts are equally strong.
    """
    linked_variance, own_variance = (x.var((0, 2, 3), correction=0).mean().item() for x in (linked, own))
    return linked_variance / (linked_variance + own_variance)


def _as_one_sample(gradient: Tensor) -> Tensor:
    return gradient.detach().cpu().double()[None]  # (1, B, C, H, W); on the CPU, for MPS has no float64
