"""Exercises of notebook 04: similarities in a batch, a softmax over teacher layers, and a weighted loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, value_and_gradients
from kdnb.methods import semckd


def batch_similarity(maps: Tensor) -> Tensor:
    """Computes the library's similarity of the images of a batch, for one layer.

    Args:
        maps: Feature maps, shape (B, C, H, W).

    Returns:
        Inner products of the images' flattened maps, shape (B, B).
    """
    return semckd.batch_similarity([maps])[0]


def association(queries: Tensor, keys: Tensor) -> Tensor:
    """Computes what SemCKD's ``LayerAttention`` computes from its queries and keys.

    Args:
        queries: One vector for each student layer and image, shape (S, B, D). Any length is allowed.

        keys: One vector for each teacher layer and image, shape (M, B, D). Any length is allowed.

    Returns:
        Weights of shape (B, S, M), which sum to 1 over the teacher layers.
    """
    energies = torch.einsum("sbd,mbd->bsm", F.normalize(queries, dim=2), F.normalize(keys, dim=2))
    return energies.softmax(2)


def over_teacher_layers(energies: Tensor) -> Tensor:
    """Turns energies into weights over the teacher layers.

    Args:
        energies: Energies of shape (B, S, M).

    Returns:
        Weights of shape (B, S, M). The weights of each student layer sum to 1.
    """
    return energies.softmax(2)


def _probe_similarity(function) -> list[Tensor]:
    small, other = normal(0, 4, 3, 2, 2), normal(6, 3, 2, 1, 4)
    return value_and_gradients(function, small) + value_and_gradients(function, other)


def _probe_association(function) -> list[Tensor]:
    small = normal(1, 2, 4, 5, std=2), normal(2, 3, 4, 5, std=2)
    other = normal(7, 3, 2, 4), normal(8, 2, 2, 4)
    return value_and_gradients(function, *small) + value_and_gradients(function, *other)


def _probe_loss(function) -> list[Tensor]:
    """The weights come from a softmax, as in the method. So only what is left of their gradient behind it
    counts, and dividing by the sum of the weights is as good as not doing it."""

    def of_energies(distances: Tensor, energies: Tensor) -> object:
        return function(distances, energies.softmax(2))

    small = normal(3, 4, 2, 3).square(), normal(4, 4, 2, 3)
    other = normal(9, 3, 1, 4).square(), normal(10, 3, 1, 4)
    return value_and_gradients(of_energies, *small) + value_and_gradients(of_energies, *other)


def _probe_axis(function) -> list[Tensor]:
    square, oblong = normal(5, 4, 3, 3), normal(11, 5, 2, 4)
    return value_and_gradients(function, square) + value_and_gradients(function, oblong)


def _energies(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.einsum("sbd,mbd->bsm", queries, keys)


def _cosines(queries: Tensor, keys: Tensor) -> Tensor:
    return _energies(F.normalize(queries, dim=2), F.normalize(keys, dim=2))


EXERCISES = {
    "batch_similarity": Exercise(
        reference=batch_similarity,
        probe=_probe_similarity,
        mutants=(
            Mutant(
                "normalised rows",
                lambda maps: F.normalize(batch_similarity(maps), dim=1),
                "you scaled the rows of the matrix to length 1, as similarity-preserving distillation "
                "does; SemCKD reads the raw inner products.",
            ),
            Mutant(
                "cosine",
                lambda maps: batch_similarity(F.normalize(maps.flatten(1), dim=1)[..., None, None]),
                "these are cosines, with ones on the diagonal; SemCKD keeps the lengths, so do not "
                "normalise.",
            ),
            Mutant(
                "pooled first",
                lambda maps: batch_similarity(maps.mean((2, 3), keepdim=True)),
                "you averaged over the positions first, so only channels are compared; flatten C, H and W.",
            ),
            Mutant(
                "channels",
                lambda maps: torch.einsum("bchw,bdhw->cd", maps, maps),
                "your result compares channels and has shape (C, C); compare pictures, so that the shape is"
                " (B, B).",
            ),
            Mutant(
                "mean",
                lambda maps: batch_similarity(maps) / maps[0].numel(),
                "an inner product is a sum over the entries of a map, not their mean.",
            ),
            Mutant(
                "detached",
                lambda maps: batch_similarity(maps.detach()),
                "the values are right, but no gradient reaches the maps; the student must also learn "
                "through its queries.",
            ),
        ),
        advice="R = maps.flatten(1); R @ R.T.",
    ),
    "association": Exercise(
        reference=association,
        probe=_probe_association,
        mutants=(
            Mutant(
                "over the student layers",
                lambda queries, keys: _cosines(queries, keys).softmax(1),
                "here the weights of each teacher layer sum to 1; the weights of each student layer must, "
                "so take the softmax over dim=2 of (B, S, M).",
            ),
            Mutant(
                "over the batch",
                lambda queries, keys: _cosines(queries, keys).softmax(0),
                "here the weights sum to 1 over the pictures; every picture has its own weights, so take "
                "the softmax over dim=2 of (B, S, M).",
            ),
            Mutant(
                "no softmax",
                _cosines,
                "these are the energies, from -1 to 1; the softmax over the teacher layers is missing.",
            ),
            Mutant(
                "not unit vectors",
                lambda queries, keys: _energies(queries, keys).softmax(2),
                "queries and keys keep their lengths, so nothing bounds the weights; divide each "
                "vector by its length.",
            ),
            Mutant(
                "scaled",
                lambda queries, keys: (_cosines(queries, keys) / queries.shape[2] ** 0.5).softmax(2),
                "you divided the energies by the square root of D, as a Transformer does; for unit vectors "
                "that makes all weights nearly equal, and SemCKD does not do it.",
            ),
            Mutant(
                "as in a Transformer",
                lambda queries, keys: (_energies(queries, keys) / queries.shape[2] ** 0.5).softmax(2),
                "that is the attention of a Transformer; SemCKD uses unit vectors instead of the factor 1 /"
                " sqrt(D).",
            ),
            Mutant(
                "keys detached",
                lambda queries, keys: association(queries, keys.detach()),
                "the values are right, but no gradient reaches the keys. The teacher is fixed; the MLPs that "
                "make keys from its layers must learn.",
            ),
            Mutant(
                "queries detached",
                lambda queries, keys: association(queries.detach(), keys),
                "the values are right, but no gradient reaches the queries, so their MLPs would not learn.",
            ),
        ),
        advice=(
            "normalise over D, compute torch.einsum('sbd,mbd->bsm', queries, keys), and take the softmax "
            "over dim=2."
        ),
    ),
    "cross_layer_loss": Exercise(
        reference=semckd.cross_layer_loss,
        probe=_probe_loss,
        mutants=(
            Mutant(
                "sum",
                lambda distances, weights: (weights * distances).sum(),
                "the loss grows with the batch and the layers; take the mean over B and S.",
            ),
            Mutant(
                "divides by M too",
                lambda distances, weights: (weights * distances).mean(),
                "the weights of a row already sum to 1, so dividing by M makes the loss too small; sum over"
                " dim=2, then take the mean.",
            ),
            Mutant(
                "sum over student layers",
                lambda distances, weights: (weights * distances).sum((1, 2)).mean(),
                "a deeper student would have a larger loss; take the mean over the student layers as well.",
            ),
            Mutant(
                "weights ignored",
                lambda distances, weights: distances.mean(),
                "every pair counts equally, which is the control 'uniform'; multiply by the weights.",
            ),
            Mutant(
                "weights detached",
                lambda distances, weights: semckd.cross_layer_loss(distances, weights.detach()),
                "the value is right, but the weights get no gradient, so the association would never learn.",
            ),
        ),
        advice="(weights * distances).sum(2).mean().",
    ),
    "who_shares_out": Exercise(
        reference=over_teacher_layers,
        probe=_probe_axis,
        mutants=(
            Mutant(
                "over the student layers",
                lambda energies: energies.softmax(1),
                "the bug is still in there: columns sum to 1, so some student layers are hardly taught.",
            ),
            Mutant(
                "over the batch",
                lambda energies: energies.softmax(0),
                "now the weights of each pair of layers sum to 1 over the batch, so the pictures compete "
                "with each other.",
            ),
            Mutant(
                "over all pairs",
                lambda energies: energies.flatten(1).softmax(1).unflatten(1, energies.shape[1:]),
                "now the student layers compete as well, and a row sums to a third on average; take one "
                "softmax for each row.",
            ),
            Mutant(
                "detached",
                lambda energies: over_teacher_layers(energies.detach()),
                "the rows sum to 1 now, but no gradient reaches the energies, so the choice would never be "
                "learned.",
            ),
        ),
        advice="each row energies[n, i] must become weights that sum to 1, in the same order.",
        bug="over the student layers",
    ),
}

QUESTIONS = {
    "largest_weight": "30476fd2f9b4",
    "reordered": "09587803e6ce",
    "what_pays": "d080e9a9b783",
}
