"""Exercises of notebook 05 on groups of students: how they teach each other, how similar they are, and why a
union is not an ensemble.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, tensor_from, value_and_gradients
from kdnb.functional import attention_map, cosine_similarity, kd_loss


def mutual_term(own: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Computes the loss by which one student learns from another, for a group of two.

    Args:
        own: Logits of the student that learns, shape (B, K).

        other: Logits of the other student, shape (B, K). They are detached.

        temperature: Temperature T of both softmaxes.

    Returns:
        The loss, a scalar, as ``mutual_terms`` computes it.
    """
    return kd_loss(own, other.detach(), temperature)


def map_cosine(one: Tensor, other: Tensor) -> Tensor:
    """Computes one cell of the table made by ``kdnb.analysis.raw_cosine``.

    Args:
        one: Feature maps of one network, shape (B, C, H, W).

        other: Feature maps of another network for the same images, shape (B, C, H, W).

    Returns:
        The mean cosine over the batch, a scalar.
    """
    return cosine_similarity(one, other).mean()


def union_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes how often at least one student is right, which ``evaluate`` calls the union.

    Args:
        logits: Logits of M students, shape (M, B, K).

        labels: True classes, shape (B,).

    Returns:
        A share from 0 to 1, a scalar.
    """
    return (logits.argmax(2) == labels).any(0).double().mean()


def _probe_mutual(function) -> list[Tensor]:
    return value_and_gradients(lambda own, other: function(own, other, 3.0), normal(0, 6, 5), normal(1, 6, 5))


def _probe_cosine(function) -> list[Tensor]:
    return [tensor_from(function(normal(3, 4, 3, 2, 2).relu(), normal(4, 4, 3, 2, 2).relu()))]


def _probe_union(function) -> list[Tensor]:
    labels = torch.randint(3, (40,), generator=torch.Generator().manual_seed(0))
    return [tensor_from(function(normal(5, 3, 40, 3), labels))]


def _all_at_once(one: Tensor, other: Tensor) -> Tensor:
    return F.cosine_similarity(one.flatten(), other.flatten(), dim=0)


EXERCISES = {
    "mutual_term": Exercise(
        reference=mutual_term,
        probe=_probe_mutual,
        mutants=(
            Mutant(
                "not detached",
                lambda own, other, T: kd_loss(own, other, T),
                "the value is right, but a gradient reaches the other student as well; it teaches here and "
                "learns in its own term, so detach it.",
            ),
            Mutant(
                "detached itself",
                lambda own, other, T: kd_loss(own.detach(), other, T),
                "you detached the student that should learn; now the student that teaches moves instead.",
            ),
            Mutant(
                "both detached",
                lambda own, other, T: kd_loss(own.detach(), other.detach(), T),
                "both are detached, so neither learns; detach the other one only.",
            ),
            Mutant(
                "other way round",
                lambda own, other, T: kd_loss(other.detach(), own, T),
                "that is KL(own || other); the loss is KL(other || own), which is kd_loss(own, other, T).",
            ),
            Mutant(
                "without T squared",
                lambda own, other, T: kd_loss(own, other.detach(), T) / T**2,
                "gradients shrink like 1/T²; kd_loss multiplies by T² to undo that, and so do the authors.",
            ),
            Mutant(
                "cross entropy with the other's answers",
                lambda own, other, T: F.cross_entropy(own, other.argmax(1)),
                "that passes on only the other student's answers; what it has to teach is its probabilities"
                " of all classes.",
            ),
        ),
        advice="kd_loss(own, other.detach(), T).",
    ),
    "map_cosine": Exercise(
        reference=map_cosine,
        probe=_probe_cosine,
        mutants=(
            Mutant(
                "of attention",
                lambda one, other: cosine_similarity(attention_map(one), attention_map(other)).mean(),
                "that compares attention maps, whose cosine is near 1 even for unrelated networks; the "
                "values of Tab. IV fit raw maps.",
            ),
            Mutant(
                "averaged over positions first",
                lambda one, other: F.cosine_similarity(one.mean((2, 3)), other.mean((2, 3))).mean(),
                "you averaged over the positions first, so the cosine compares which channels are active "
                "but not where.",
            ),
            Mutant(
                "at each position",
                lambda one, other: F.cosine_similarity(one, other, dim=1).mean(),
                "a cosine at every position counts an empty corner as much as the object; flatten C, H and "
                "W.",
            ),
            Mutant(
                "whole batch",
                _all_at_once,
                "you took one cosine for the whole batch, so pictures with strong activations count more; "
                "take one for each picture, then the mean.",
            ),
            Mutant(
                "centred",
                lambda one, other: F.cosine_similarity(
                    *(x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (one, other))
                ).mean(),
                "you subtracted the mean, which gives a correlation that may be negative; do not centre.",
            ),
            Mutant(
                "no norms",
                lambda one, other: (one * other).flatten(1).sum(1).mean(),
                "an inner product grows with the activations; divide by both lengths.",
            ),
        ),
        advice="F.cosine_similarity(one.flatten(1), other.flatten(1)).mean().",
    ),
    "union_accuracy": Exercise(
        reference=union_accuracy,
        probe=_probe_union,
        mutants=(
            Mutant(
                "ensemble",
                lambda logits, labels: (logits.mean(0).argmax(1) == labels).double().mean(),
                "that is the true ensemble, which gives one answer from the mean logits; the union asks "
                "whether any student is right.",
            ),
            Mutant(
                "average",
                lambda logits, labels: (logits.argmax(2) == labels).double().mean(),
                "that is the students' average accuracy; the union asks for each picture whether any "
                "student is right.",
            ),
            Mutant(
                "all",
                lambda logits, labels: (logits.argmax(2) == labels).all(0).double().mean(),
                "these are the pictures that all students answer right, which is the intersection; the "
                "union needs only one of them to be right.",
            ),
            Mutant(
                "majority",
                lambda logits, labels: (logits.argmax(2).mode(0).values == labels).double().mean(),
                "a vote gives one answer, so it is an ensemble; the union needs only one right student.",
            ),
            Mutant(
                "best student",
                lambda logits, labels: (logits.argmax(2) == labels).double().mean(1).max(),
                "that is the best student; the union may use another student for every picture.",
            ),
            Mutant(
                "percent",
                lambda logits, labels: 100 * union_accuracy(logits, labels),
                "your result is in percent; return a share from 0 to 1.",
            ),
        ),
        advice="(logits.argmax(2) == labels).any(0).double().mean().",
    ),
}
