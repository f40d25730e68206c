"""Exercises of notebook 01: temperature, its square in the loss, and the mistakes made with KL divergence."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.analysis import class_similarity
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, tensor_from
from kdnb.functional import kd_loss, soft_labels


def _probe_soft_labels(function) -> list[Tensor]:
    return [tensor_from(function(normal(0, 4, 7, std=3).float(), temperature)) for temperature in (1.0, 4.0)]


def _probe_loss(function, *, teacher_learns: bool = False) -> list[Tensor]:
    """Returns the loss and the student's gradient at two temperatures, in float32 as in the notebook.

    Where ``teacher_learns`` the teacher's logits ask for a gradient, and it is returned as well.
    """
    found = []
    for temperature in (2.0, 4.0):
        student = normal(1, 4, 7, std=3).float().requires_grad_()
        teacher = normal(2, 4, 7, std=3).float().requires_grad_(teacher_learns)
        loss = tensor_from(function(student, teacher, temperature))
        found.append(loss.detach())
        if not loss.requires_grad:
            raise ValueError("the loss does not depend on the student's logits any more")
        leaves = (student, teacher) if teacher_learns else (student,)
        found += torch.autograd.grad(loss.sum(), leaves, allow_unused=True, materialize_grads=True)
    return found


def _probe_both_gradients(function) -> list[Tensor]:
    return _probe_loss(function, teacher_learns=True)


def _probe_similarity(function) -> list[Tensor]:
    """Two data sets whose classes have unequal numbers of pictures."""
    found = []
    for classes, labels in ((4, [0, 2, 1, 3, 0, 0, 2, 0, 3, 0, 1]), (3, [2, 2, 0, 1, 2, 0, 2])):
        probabilities = torch.softmax(normal(3, len(labels), classes, std=3), 1).float()
        found.append(tensor_from(function(probabilities, torch.tensor(labels))))
    return found


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


def _cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_student = F.log_softmax(student / temperature, 1)
    return -(F.softmax(teacher / temperature, 1) * log_student).sum(1).mean()


def _without_log(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    probabilities = F.softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    return F.kl_div(*probabilities, reduction="batchmean")


def _means(probabilities: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([probabilities[labels == label].mean(0) for label in range(probabilities.shape[1])])


def _sums(probabilities: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([probabilities[labels == label].sum(0) for label in range(probabilities.shape[1])])


def _symmetric(rows: Tensor) -> Tensor:
    return ((rows + rows.T) / 2).fill_diagonal_(0)


def _first_choices(probabilities: Tensor, labels: Tensor) -> Tensor:
    answers = F.one_hot(probabilities.argmax(1), probabilities.shape[1]).to(probabilities)
    return _symmetric(_means(answers, labels))


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
                "T for T squared",
                lambda s, t, T: T * _divergence(s, t, "batchmean", T, T),
                "the gradients shrink by 1 / T twice, and one factor T undoes only one of the two; multiply "
                "by T**2.",
            ),
            Mutant(
                "no T squared and mean over classes too",
                lambda s, t, T: _divergence(s, t, "batchmean", T, T) / s.shape[1],
                "two things are missing: the factor T**2, and reduction='batchmean', because the default "
                "divides by the number of classes as well.",
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
                "teacher not softened",
                lambda s, t, T: T**2 * _divergence(s, t, "batchmean", T, 1.0),
                "only the student is softened; divide the teacher's logits by T as well.",
            ),
            Mutant(
                "forgotten log",
                lambda s, t, T: T**2 * _without_log(s, t, T),
                "F.kl_div expects the logarithm of the student's probabilities as its first argument; use "
                "log_softmax for the student.",
            ),
            Mutant(
                "cross entropy",
                lambda s, t, T: T**2 * _cross_entropy(s, t, T),
                "that is the cross entropy of the paper. Its gradient is right, but it is not 0 where the "
                "student agrees with the teacher; subtract the teacher's entropy, or use F.kl_div.",
            ),
            Mutant(
                "cross entropy without T squared",
                _cross_entropy,
                "that is a cross entropy without the factor T**2; use the divergence, multiplied by T**2.",
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
                lambda probabilities, labels: _means(probabilities, labels).fill_diagonal_(0),
                "entry (a, b) differs from (b, a); average the matrix with its transpose.",
            ),
            Mutant(
                "diagonal kept",
                lambda probabilities, labels: (
                    (_means(probabilities, labels) + _means(probabilities, labels).T) / 2
                ),
                "the diagonal says how sure the network is, not which classes are similar; set it to 0.",
            ),
            Mutant(
                "not halved",
                lambda probabilities, labels: 2 * _symmetric(_means(probabilities, labels)),
                "every entry is twice too large: the average of two numbers is half of their sum.",
            ),
            Mutant(
                "divided by N / K",
                lambda probabilities, labels: (
                    _symmetric(_sums(probabilities, labels)) * probabilities.shape[1] / len(labels)
                ),
                "N / K is the number of pictures of a class only if all classes have equally many; divide "
                "each row by the number of its own pictures, which is what a mean does.",
            ),
            Mutant(
                "sums",
                lambda probabilities, labels: _symmetric(_sums(probabilities, labels)),
                "a class with more pictures gets larger entries; take the mean of its pictures, not the sum.",
            ),
            Mutant(
                "first choices",
                _first_choices,
                "you counted the first choice of each picture; that is a confusion matrix. Average the "
                "probabilities themselves.",
            ),
        ),
        advice=(
            "average the soft labels of each class, then average the matrix with its transpose, then set "
            "the diagonal to 0."
        ),
    ),
    "teacher_must_not_learn": Exercise(
        reference=kd_loss_detached,
        probe=_probe_both_gradients,
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
    "control": "e1c6bf4dc26b",
}
