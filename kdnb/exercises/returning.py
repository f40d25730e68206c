"""Exercises of notebook 06 on gradients.

They ask what returns through a link, whether it differs from what the labels say, and how a hook can cut
the link by mistake.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.analysis import link_agreement
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, tensor_from


def returned(z_s: Tensor, z_t: Tensor, labels: Tensor, x: Tensor, c: float) -> Tensor:
    """Computes the gradient of the teacher's cross entropy in the student's weights W.

    The networks are linear: z_s = W x and z_t = V x + c z_s.

    Args:
        z_s: Logits of the student, shape (B, K). The result does not depend on them.

        z_t: Logits of the teacher, shape (B, K).

        labels: True classes, shape (B,).

        x: Inputs, shape (B, D).

        c: Factor of the link.

    Returns:
        The gradient, shape (K, D).
    """
    error = z_t.softmax(1) - F.one_hot(labels, z_t.shape[1])
    return c * error.T @ x / len(x)


def agreement(total: Tensor, label: Tensor) -> float:
    """Computes ``kdnb.analysis.link_agreement`` for one convolution.

    Args:
        total: Gradient of the teacher's loss in the convolution's output, shape (B, C, H, W).

        label: Gradient of the student's label loss in the same output, shape (B, C, H, W).

    Returns:
        The cosine of both, taken over the whole batch as one vector.
    """
    return link_agreement({"": (total, total, label)}).item()


def kept(output: Tensor) -> Tensor:
    """Returns what a link keeps of a convolution's output, as ``kdnb.methods.ecd.links.watched`` does.

    Args:
        output: Output of the convolution, shape (B, C, H, W).

    Returns:
        A clone with its graph, which a layer that works in place cannot change.
    """
    return output.clone()


def _probe_returned(function) -> list[Tensor]:
    z_s, z_t, x = normal(0, 5, 3), normal(1, 5, 3), normal(2, 5, 4)
    return [tensor_from(function(z_s, z_t, torch.tensor([0, 2, 1, 1, 0]), x, 0.5))]


def _probe_agreement(function) -> list[Tensor]:
    strength = torch.tensor([0.1, 1, 4, 2], dtype=torch.float64)[:, None, None, None]
    total = normal(0, 4, 3, 2, 2) * strength
    label = (normal(1, 4, 3, 2, 2) - 0.8 * total) * strength.flip(0)
    return [tensor_from(function(total, label))]


def _probe_kept(function) -> list[Tensor]:
    """Lets a layer work in place on the output, then returns what was kept and the gradient through it."""
    h = normal(0, 3, 2, 4, 4).requires_grad_()
    output = 2 * h
    feature = tensor_from(function(output))
    output.relu_()
    facts = torch.tensor([float(feature.requires_grad), float(feature.is_leaf)])
    if not feature.requires_grad or feature.is_leaf:
        return [feature.detach().clone(), torch.zeros_like(h), facts]
    (gradient,) = torch.autograd.grad((feature * normal(1, *feature.shape)).sum(), h)
    return [feature.detach().clone(), gradient, facts]


EXERCISES = {
    "returned": Exercise(
        reference=returned,
        probe=_probe_returned,
        mutants=(
            Mutant(
                "the student's own error",
                lambda z_s, z_t, y, x, c: returned(z_s, z_s, y, x, c),
                "that is the error of the student's logits; the teacher's loss depends on z_t.",
            ),
            Mutant(
                "both losses",
                lambda z_s, z_t, y, x, c: returned(z_s, z_t, y, x, c) + returned(z_s, z_s, y, x, 1.0),
                "you added the gradient of the student's own loss; only the gradient that returns through "
                "the link is asked for.",
            ),
            Mutant(
                "without c",
                lambda z_s, z_t, y, x, c: returned(z_s, z_t, y, x, 1.0),
                "the factor c is missing; it comes from the chain rule, because z_t = V x + c z_s.",
            ),
            Mutant(
                "sign",
                lambda z_s, z_t, y, x, c: -returned(z_s, z_t, y, x, c),
                "the sign is wrong; d CE / d z = softmax(z) - one-hot.",
            ),
            Mutant(
                "without the label",
                lambda z_s, z_t, y, x, c: c * z_t.softmax(1).T @ x / len(x),
                "the error is softmax(z_t) minus the one-hot label.",
            ),
            Mutant(
                "summed over the batch",
                lambda z_s, z_t, y, x, c: len(x) * returned(z_s, z_t, y, x, c),
                "cross entropy is a mean over the batch, so its gradient is a mean as well.",
            ),
            Mutant(
                "transposed",
                lambda z_s, z_t, y, x, c: returned(z_s, z_t, y, x, c).T,
                "W has shape (K, D), with a row for each class; your result is transposed.",
            ),
        ),
        advice="error = z_t.softmax(1) - F.one_hot(labels, K); c * error.T @ x / len(x).",
    ),
    "agreement": Exercise(
        reference=agreement,
        probe=_probe_agreement,
        mutants=(
            Mutant(
                "a cosine for each image",
                lambda a, b: F.cosine_similarity(a.flatten(1), b.flatten(1)).mean(),
                "one cosine for each image counts images with tiny gradients as much as the others; the "
                "training step follows the sum, so treat the batch as one vector.",
            ),
            Mutant(
                "at each position",
                lambda a, b: F.cosine_similarity(a, b, dim=1).mean(),
                "that is a cosine at every position; flatten everything to one vector.",
            ),
            Mutant(
                "no norms",
                lambda a, b: (a * b).sum(),
                "an inner product grows with the lengths of both gradients; divide by both lengths.",
            ),
            Mutant(
                "one norm",
                lambda a, b: (a * b).sum() / b.norm(),
                "your result still grows with the length of the first gradient; divide by both lengths.",
            ),
            Mutant(
                "absolute values",
                lambda a, b: F.cosine_similarity(a.abs().flatten(), b.abs().flatten(), dim=0),
                "you dropped the signs, so opposite gradients count as agreement.",
            ),
            Mutant(
                "ratio of lengths",
                lambda a, b: a.norm() / b.norm(),
                "that compares the lengths of the gradients; the question is whether they point in the same"
                " direction.",
            ),
        ),
        advice="F.cosine_similarity(total.flatten(), label.flatten(), dim=0).",
    ),
    "kept": Exercise(
        reference=kept,
        probe=_probe_kept,
        mutants=(
            Mutant(
                "detached",
                lambda output: output.detach().clone(),
                "the bug is still in there: detach() cuts the link for gradients, so all that the teacher "
                "could teach is lost, and nothing crashes.",
            ),
            Mutant(
                "no copy",
                lambda output: output,
                "the gradient returns, but an in-place ReLU after the convolution now writes into what you "
                "kept; keep a clone.",
            ),
            Mutant(
                "a new leaf",
                lambda output: output.detach().clone().requires_grad_(),
                "requires_grad_() starts a new graph here; the old one, which leads to the student, is cut.",
            ),
        ),
        advice="output.clone().",
        bug="detached",
    ),
}
