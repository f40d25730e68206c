"""Which classes a network finds similar, and whether these belong to the same known family."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdnb.errors import InputError
from kdnb.functional import cosine_similarity


def class_similarity(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How similar a network finds two classes, from its soft labels.

    Args:
        probabilities: The soft labels, (N, K).

        labels: The labels, (N,).

    Returns:
        A symmetric table, (K, K). Entry (a, b) is the mean of two values: the mean probability of class b
        for images of class a, and that of class a for images of class b. The diagonal is 0.

    Raises:
        InputError: If a class has no image.

    Example:
        >>> soft = torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
        >>> class_similarity(soft, torch.tensor([0, 1, 2]))
        tensor([[0.0000, 0.3750, 0.0000],
                [0.3750, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    rows = _class_means(probabilities, labels)
    return ((rows + rows.T) / 2).fill_diagonal_(0)


def logit_similarity(logits: Tensor, labels: Tensor) -> Tensor:
    """How similar a network finds two classes, from its logits.

    Args:
        logits: The logits, (N, K).

        labels: The labels, (N,).

    Returns:
        A symmetric table, (K, K), with values from -1 to 1. Entry (a, b) is Pearson's correlation between
        the mean logits of class a and those of class b. Before that, the mean over the classes is
        subtracted from each logit, because what all classes share does not tell them apart. The diagonal
        is 1. If no classes are similar, the other entries are near -1 / (K - 1).

    Raises:
        InputError: If a class has no image.
    """
    rows = _class_means(logits, labels)
    rows = rows - rows.mean(0)
    rows = rows - rows.mean(1, keepdim=True)  # softmax does not depend on the mean of a row
    classes = len(rows)
    pairs = cosine_similarity(rows.repeat_interleave(classes, 0), rows.repeat(classes, 1))
    return pairs.view(classes, classes)


def siblings_found(similarity: Tensor, families: Sequence[int]) -> float:
    """The share of classes whose most similar other class belongs to the same family.

    If all families have two of the K classes, chance gives 1 / (K - 1).

    Args:
        similarity: The similarity of every two classes, (K, K). The diagonal is not used.

        families: The number of the family of each class, K numbers.

    Returns:
        The share, from 0 to 1.
    """
    family = torch.tensor(families)
    nearest = similarity.clone().fill_diagonal_(float("-inf")).argmax(1)
    return (family[nearest] == family).double().mean().item()


def sibling_share(probabilities: Tensor, labels: Tensor, families: Sequence[int]) -> Tensor:
    """How much of the probability that is not on the true class goes to the other classes of its family.

    Args:
        probabilities: The soft labels, (N, K). Float64 keeps the small ones of a sure network apart.

        labels: The labels, (N,).

        families: The number of the family of each class, K numbers.

    Returns:
        The share for each image, (N,), from 0 to 1. It is 0 where nothing is left for the other classes.

    Example:
        >>> soft = torch.tensor([[0.75, 0.1875, 0.0625], [0.25, 0.0, 0.75]])
        >>> sibling_share(soft, torch.tensor([0, 2]), families=(0, 0, 1))
        tensor([0.7500, 0.0000])
    """
    family = torch.tensor(families, device=probabilities.device)
    others = probabilities.scatter(1, labels[:, None], 0.0)  # the true class leaves its row
    siblings = others * (family[None, :] == family[labels][:, None])
    return siblings.sum(1) / others.sum(1).clamp(min=torch.finfo(others.dtype).tiny)


def _class_means(values: Tensor, labels: Tensor) -> Tensor:
    """The mean row of each class: (N, K) values and (N,) labels give (K, K)."""
    classes = values.shape[1]
    counts = labels.bincount(minlength=classes).tolist()
    if 0 in counts:
        raise InputError(f"No picture of class number {counts.index(0)}: every class needs at least one.")
    return torch.stack([values[labels == label].mean(0) for label in range(classes)])
