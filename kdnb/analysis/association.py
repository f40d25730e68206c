"""Measures of SemCKD's association, the weights that a student layer gives to the teacher's layers.

An association has the shape (..., S, M) for S student layers and M teacher layers. Each row of M weights
sums to 1. See kdnb/methods/README.md, section SemCKD.
"""

from math import exp, log

import torch
from torch import Tensor

from kdnb.errors import InputError


def association_bounds(teacher_layers: int) -> tuple[float, float]:
    """The smallest and the largest weight that SemCKD's association can give to a teacher layer.

    The weights are a softmax of cosines, which lie between -1 and 1 and are not scaled. One layer can
    therefore have at most e^2 times the weight of another.

    Args:
        teacher_layers: The number of teacher layers M.

    Returns:
        The smallest and the largest weight.

    Raises:
        InputError: If there is no teacher layer.

    Example:
        >>> [round(bound, 3) for bound in association_bounds(3)]
        [0.063, 0.787]
    """
    if teacher_layers < 1:
        raise InputError(f"An association needs at least one teacher layer, found {teacher_layers}.")
    others, ratio = teacher_layers - 1, exp(2)
    return 1 / (1 + others * ratio), ratio / (ratio + others)


def relative_entropy(weights: Tensor) -> Tensor:
    """How evenly each row spreads its weights: its entropy divided by log M.

    Args:
        weights: Weights over M teacher layers, (..., M). Each row sums to 1.

    Returns:
        A value for each row, (...): 1 for equal weights, 0 if one layer has all the weight.

    Raises:
        InputError: If there are fewer than two teacher layers.

    Example:
        >>> relative_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([1., 0.])
    """
    layers = weights.shape[-1]
    if layers < 2:
        raise InputError(f"Entropy compares two teacher layers or more, found {layers}.")
    return torch.special.entr(weights).sum(-1) / log(layers)


def lowest_relative_entropy(teacher_layers: int) -> float:
    """The smallest ``relative_entropy`` that weights within ``association_bounds`` can have.

    Entropy is concave, so at its minimum every cosine is either -1 or 1. The function tries all numbers of
    layers with a cosine of 1.

    Args:
        teacher_layers: The number of teacher layers M, at least 2.

    Returns:
        The smallest relative entropy.

    Raises:
        InputError: If there are fewer than two teacher layers.
    """
    ones = torch.ones(teacher_layers, teacher_layers).double()
    cosines = 2 * ones.tril() - 1  # (M, M): row n has n + 1 cosines of 1, the others are -1
    return relative_entropy(cosines.softmax(1)).min().item()


def association_by_class(weights: Tensor, labels: Tensor) -> Tensor:
    """The mean association of the images of each class.

    Args:
        weights: The association of each image, (N, S, M).

        labels: The labels, (N,).

    Returns:
        The means, (K, S, M), where K - 1 is the highest label. A class without images has NaN.
    """
    classes = int(labels.max()) + 1
    return torch.stack([weights[labels == label].mean(0) for label in range(classes)])
