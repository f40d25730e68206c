"""What a learned association of layers says: weights (..., S, M), rows over M teacher layers sum to 1."""

from math import exp, log

import torch
from torch import Tensor

from kdnb.errors import InputError


def association_bounds(teacher_layers: int) -> tuple[float, float]:
    """The smallest and the largest weight that SemCKD's association can give one of M teacher layers.

    Its energies are cosines, from -1 to 1, and nothing scales them before the softmax. So one layer
    is heard at most e^2 times as loudly as another: for M = 3 weights lie between 0.063 and 0.787.
    """
    if teacher_layers < 1:
        raise InputError(f"An association needs at least one teacher layer, found {teacher_layers}.")
    others, ratio = teacher_layers - 1, exp(2)
    return 1 / (1 + others * ratio), ratio / (ratio + others)


def relative_entropy(weights: Tensor) -> Tensor:
    """How undecided each row is, (..., M) -> (...): 1 for uniform weights, 0 for a single layer.

    Entropy divided by log M. Raises InputError for fewer than two layers: there is nothing to decide.
    """
    layers = weights.shape[-1]
    if layers < 2:
        raise InputError(f"Entropy compares two teacher layers or more, found {layers}.")
    return torch.special.entr(weights).sum(-1) / log(layers)


def lowest_relative_entropy(teacher_layers: int) -> float:
    """``relative_entropy`` of the most decided row within ``association_bounds``.

    Entropy is concave, so its minimum has only weights that are as far apart as they can be.
    """
    energies = (
        2 * torch.ones(teacher_layers, teacher_layers).double().tril() - 1
    )  # 1, 2 ... M layers are heard
    return relative_entropy(energies.softmax(1)).min().item()


def association_by_class(weights: Tensor, labels: Tensor) -> Tensor:
    """Mean weights of each class's images: (N, S, M) and (N,) -> (K, S, M), K - 1 the highest label.

    NaN for a class without images.
    """
    classes = int(labels.max()) + 1
    return torch.stack([weights[labels == label].mean(0) for label in range(classes)])
