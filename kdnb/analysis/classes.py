"""Which classes a network finds alike, and whether these are the families that we know."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdnb.errors import InputError
from kdnb.functional import cosine_similarity


def class_similarity(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Which classes a network finds alike: (N, K) soft labels and (N,) labels -> (K, K).

    Entry (a, b) is the mean probability that pictures of class a give to class b, made symmetric by
    averaging with (b, a); the diagonal is 0. Every class needs at least one picture.
    """
    rows = _class_means(probabilities, labels)
    return ((rows + rows.T) / 2).fill_diagonal_(0)


def logit_similarity(logits: Tensor, labels: Tensor) -> Tensor:
    """The same question asked of logits: (N, K) logits and (N,) labels -> (K, K), from -1 to 1.

    Entry (a, b) is Pearson's correlation between the mean logits of class a and those of class b,
    after each logit's mean over the classes is taken off: what all classes share says nothing. The
    diagonal is 1. Without any resemblance the other entries are near -1 / (K - 1).

    Raises InputError for a class without a picture.
    """
    rows = _class_means(logits, labels)
    rows = rows - rows.mean(0)
    rows = rows - rows.mean(1, keepdim=True)  # softmax does not see a row's mean
    classes = len(rows)
    pairs = cosine_similarity(rows.repeat_interleave(classes, 0), rows.repeat(classes, 1))
    return pairs.view(classes, classes)


def siblings_found(similarity: Tensor, families: Sequence[int]) -> float:
    """Share of classes whose most similar other class is of their own family. Chance for families
    of two among K classes: 1 / (K - 1)."""
    family = torch.tensor(families)
    nearest = similarity.clone().fill_diagonal_(float("-inf")).argmax(1)
    return (family[nearest] == family).double().mean().item()


def family_contrast(similarity: Tensor, families: Sequence[int]) -> float:
    """Mean similarity (K, K) of two classes of one family, less that of two classes of different
    families. 0: the network does not see the families.

    Raises InputError unless there are pairs of both kinds.
    """
    family = torch.tensor(families)
    others = ~torch.eye(len(family), dtype=torch.bool)
    alike = family[:, None] == family
    inside, between = similarity[alike & others], similarity[~alike]
    if not len(inside) or not len(between):
        raise InputError(
            "The contrast needs two families or more, and one of them with two classes or more; "
            f"found {list(families)}."
        )
    return (inside.mean() - between.mean()).item()


def _class_means(values: Tensor, labels: Tensor) -> Tensor:
    """Mean row of each class: (N, K) and (N,) -> (K, K)."""
    classes = values.shape[1]
    counts = labels.bincount(minlength=classes).tolist()
    if 0 in counts:
        raise InputError(f"No picture of class number {counts.index(0)}: every class needs at least one.")
    return torch.stack([values[labels == label].mean(0) for label in range(classes)])
