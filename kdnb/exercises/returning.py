"""Exercises of notebook 06 on gradients.

They ask what returns through a link, whether it differs from what the labels say, and how a hook can cut
the link by mistake.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.analysis import link_agreement
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import AutogradUsed, normal, same_type, tensor_from, without_autograd


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
    """Returns the gradient for two batches, or nothing but an empty tensor where autograd computes it."""
    found = []
    for B, K, D, c in ((5, 3, 4, 0.5), (2, 4, 3, 2.0)):
        z_s, z_t, x = normal(0, B, K), normal(1, B, K), normal(2, B, D)
        try:
            with without_autograd():
                found.append(tensor_from(function(z_s, z_t, torch.arange(B).flip(0) % K, x, c)))
        except AutogradUsed:
            return [torch.empty(0)]
    return found


def _by_autograd(z_s: Tensor, z_t: Tensor, labels: Tensor, x: Tensor, c: float) -> Tensor:
    logits = z_t.clone().requires_grad_()
    F.cross_entropy(logits, labels).backward()
    return c * logits.grad.T @ x


def _probe_agreement(function) -> list[Tensor]:
    found = []
    for opposed, shape in ((0.8, (4, 3, 2, 2)), (-0.3, (4, 2, 3, 1))):
        strength = torch.tensor([0.1, 1, 4, 2], dtype=torch.float64)[:, None, None, None]
        total = normal(0, *shape) * strength
        label = (normal(1, *shape) - opposed * total) * strength.flip(0)
        found.append(tensor_from(function(total, label)))
    return found


def _probe_kept(function) -> list[Tensor]:
    """Lets a layer work in place on the output, then returns what was kept and the gradient through it."""
    h = normal(0, 3, 2, 4, 4).requires_grad_()
    output = 2 * h
    feature = tensor_from(function(output))
    output.relu_()
    facts = torch.tensor([float(feature.requires_grad), float(feature.is_leaf)])
    facts = torch.cat([facts, same_type(tensor_from(function(torch.ones(1, 2, 4, 4))), torch.ones(1))])
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
            Mutant(
                "by autograd",
                _by_autograd,
                "here PyTorch differentiates for you; write the chain rule out, with the difference of two "
                "tensors and one matrix product.",
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
            Mutant(
                "another type",
                lambda output: output.double().clone(),
                "the copy is float64 for a float32 output; the link must not change the type of the numbers.",
            ),
        ),
        advice="output.clone().",
        bug="detached",
    ),
}
