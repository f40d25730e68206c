"""Exercises of notebook 01: temperature, its square in the loss, and the mistakes made with KL divergence."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.analysis import class_similarity
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, tensor_from
from kdnb.functional import kd_loss, soft_labels


def _probe_soft_labels(function) -> list[Tensor]:
    return [tensor_from(function(normal(0, 4, 7, std=3), temperature)) for temperature in (1.0, 4.0)]


def _probe_loss(function) -> list[Tensor]:
    """Returns the loss and both gradients at two temperatures. The teacher's gradient must agree as well."""
    found = []
    for temperature in (2.0, 4.0):
        student, teacher = normal(1, 4, 7, std=3).requires_grad_(), normal(2, 4, 7, std=3).requires_grad_()
        loss = tensor_from(function(student, teacher, temperature))
        found.append(loss.detach())
        if not loss.requires_grad:
            raise ValueError("the loss does not depend on the student's logits any more")
        gradients = torch.autograd.grad(loss.sum(), (student, teacher), allow_unused=True)
        found += [torch.zeros(4, 7) if gradient is None else gradient for gradient in gradients]
    return found


def _probe_similarity(function) -> list[Tensor]:
    labels = torch.arange(12) % 4
    return [tensor_from(function(torch.softmax(normal(3, 12, 4, std=3), 1), labels))]


def kd_loss_detached(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Computes ``kd_loss`` for a teacher that must not learn.

    Args:
        student_logits: Logits of the student, shape (B, K).

        teacher_logits: Logits of the teacher, shape (B, K). They are detached.

        temperature: Temperature T of both softmaxes.

    Returns:
        The loss, a scalar. Its gradient reaches the student alone.
    """
    return kd_loss(student_logits, teacher_logits.detach(), temperature)


def _divergence(student: Tensor, teacher: Tensor, reduction: str, student_t: float, teacher_t: float):
    log_student = F.log_softmax(student / student_t, 1)
    return F.kl_div(log_student, F.softmax(teacher / teacher_t, 1), reduction=reduction)


def _rows_not_symmetric(probabilities: Tensor, labels: Tensor) -> Tensor:
    classes = probabilities.shape[1]
    rows = torch.stack([probabilities[labels == label].mean(0) for label in range(classes)])
    return rows.fill_diagonal_(0)


def _with_diagonal(probabilities: Tensor, labels: Tensor) -> Tensor:
    classes = probabilities.shape[1]
    rows = torch.stack([probabilities[labels == label].mean(0) for label in range(classes)])
    return (rows + rows.T) / 2


EXERCISES = {
    "soft_labels": Exercise(
        reference=soft_labels,
        probe=_probe_soft_labels,
        mutants=(
            Mutant(
                "multiplied",
                lambda logits, temperature: torch.softmax(logits * temperature, 1),
                "a higher temperature must flatten the distribution: divide the logits by T.",
            ),
            Mutant(
                "over the batch",
                lambda logits, temperature: torch.softmax(logits / temperature, 0),
                "each column sums to 1, but each image needs its own distribution; take the softmax over "
                "dim=1.",
            ),
            Mutant(
                "after the softmax",
                lambda logits, temperature: torch.softmax(logits, 1) / temperature,
                "the rows no longer sum to 1; divide the logits, not the probabilities.",
            ),
            Mutant(
                "without T",
                lambda logits, temperature: torch.softmax(logits, 1),
                "the temperature has no effect yet.",
            ),
        ),
        advice="take the softmax of logits / temperature over the classes, dim=1.",
    ),
    "kd_loss": Exercise(
        reference=kd_loss,
        probe=_probe_loss,
        mutants=(
            Mutant(
                "no T squared",
                lambda s, t, T: _divergence(s, t, "batchmean", T, T),
                "the gradients shrink by a factor of 1 / T**2; multiply the loss by T**2 to undo this.",
            ),
            Mutant(
                "mean over classes too",
                lambda s, t, T: T**2 * _divergence(s, t, "batchmean", T, T) / s.shape[1],
                "reduction='mean' divides by B * K, but a divergence is a sum over the classes; use "
                "'batchmean'.",
            ),
            Mutant(
                "arguments swapped",
                lambda s, t, T: T**2 * _divergence(t, s, "batchmean", T, T),
                "that is KL(student || teacher); F.kl_div takes the student's log-probabilities first and "
                "the teacher's probabilities second.",
            ),
            Mutant(
                "student not softened",
                lambda s, t, T: T**2 * _divergence(s, t, "batchmean", 1.0, T),
                "only the teacher is softened; divide both logits by T.",
            ),
            Mutant(
                "sum over the batch",
                lambda s, t, T: T**2 * _divergence(s, t, "sum", T, T),
                "the loss grows with the batch; use reduction='batchmean'.",
            ),
        ),
        advice="T**2 * F.kl_div(log_softmax(s / T), softmax(t / T), reduction='batchmean').",
    ),
    "class_similarity": Exercise(
        reference=class_similarity,
        probe=_probe_similarity,
        mutants=(
            Mutant(
                "one direction",
                _rows_not_symmetric,
                "entry (a, b) differs from (b, a); average the matrix with its transpose.",
            ),
            Mutant(
                "diagonal kept",
                _with_diagonal,
                "the diagonal says how sure the network is, not which classes are similar; set it to 0.",
            ),
        ),
        advice=(
            "average the soft labels of each class, then average the matrix with its transpose, then set "
            "the diagonal to 0."
        ),
    ),
    "teacher_must_not_learn": Exercise(
        reference=kd_loss_detached,
        probe=_probe_loss,
        mutants=(
            Mutant(
                "not detached",
                kd_loss,
                "the bug is still in there: the teacher's logits get a gradient, so a teacher "
                "that is not frozen would move towards its student.",
            ),
            Mutant(
                "student detached",
                lambda s, t, T: kd_loss(s.detach(), t, T),
                "now the student cannot learn and the teacher still can: detach the other one.",
            ),
        ),
        advice=(
            "the value must stay the same and only the teacher's gradient must vanish; detach the teacher's"
            " logits."
        ),
        bug="not detached",
    ),
}

QUESTIONS = {
    "hot_labels": "0deea842288c",
    "why_t_squared": "d0649b093ecb",
    "control": "fdc2c6bff135",
}
