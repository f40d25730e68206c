"""Exercises of notebook 03: a connector and its order, two losses, and a gradient that is lost."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, tensor_from
from kdnb.functional import kd_loss
from kdnb.methods.srrl import Connector, feature_matching_loss, softmax_regression_loss


def connected(connector: nn.Module, final: Tensor) -> Tensor:
    """Maps the student's last feature map to the teacher's width, then averages over the positions.

    Args:
        connector: A module from C_s to C_t channels.

        final: The student's last feature map, shape (B, C_s, H, W).

    Returns:
        Vectors of shape (B, C_t).
    """
    return connector(final).mean((2, 3))


def regression_loss(
    connected: Tensor, embedding: Tensor, teacher_head: nn.Module, student_head: nn.Module
) -> Tensor:
    """Computes SRRL's softmax regression loss, with all logits from the teacher's head.

    Args:
        connected: The student's vectors in the teacher's space, shape (B, C_t).

        embedding: The teacher's embedding, shape (B, C_t).

        teacher_head: The teacher's classifier.

        student_head: The student's classifier. It is not used. The exercise offers it as a wrong choice.

    Returns:
        The loss, a scalar.
    """
    return softmax_regression_loss(connected, teacher_head, teacher_head(embedding))


def _linear(seed: int, wide: int, classes: int) -> nn.Linear:
    head = nn.utils.skip_init(nn.Linear, wide, classes, dtype=torch.float64)
    head.weight.data, head.bias.data = normal(seed, classes, wide, std=2), normal(seed + 1, classes, std=2)
    return head


def _gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Returns the gradient of the summed loss in each leaf; it is zero where nothing flows."""
    found = [None] * len(leaves)
    if loss.requires_grad:
        found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]


def _probe_connected(function) -> list[Tensor]:
    """Returns, in both modes of a connector, the vectors, their gradients, and what the call left behind."""
    found = []
    for number, (training, height, width) in enumerate(((True, 2, 3), (False, 4, 2))):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            connector = Connector(3, 5).double().train(training)
        maps = normal(number, 4, 3, height, width, std=2).requires_grad_()
        vectors = tensor_from(function(connector, maps))
        gradients = _gradients(vectors.square().sum(), [maps, connector[0].weight])
        left = torch.tensor([module.training for module in connector.modules()])
        found += [vectors.detach(), *gradients, left, connector[1].running_mean]
    return found


def _probe_matching(function) -> list[Tensor]:
    found = []
    for number, shape in enumerate(((4, 6), (1, 5))):
        student = normal(2 + number, *shape, std=2).requires_grad_()
        loss = tensor_from(function(student, normal(12 + number, *shape, std=2)))
        found += [loss.detach(), *_gradients(loss, [student])]
    return found


def _probe_regression(function) -> list[Tensor]:
    """Returns the loss, its gradients in the student's vectors and head, and which weights are free."""
    student, teacher = normal(4, 4, 6, std=2).requires_grad_(), normal(5, 4, 6, std=2)
    teacher_head, student_head = _linear(6, 6, 3).requires_grad_(False), _linear(8, 6, 3)
    loss = tensor_from(function(student, teacher, teacher_head, student_head))
    weights = [*teacher_head.parameters(), *student_head.parameters()]
    free = torch.tensor([weight.requires_grad for weight in weights])
    return [loss.detach(), *_gradients(loss, [student, student_head.weight]), free]


def _switched_to_eval(connector: nn.Module, final: Tensor) -> Tensor:
    return connected(connector.eval(), final)


def _no_grad(connected: Tensor, embedding: Tensor, teacher_head: nn.Module, student_head: nn.Module):
    with torch.no_grad():
        return regression_loss(connected, embedding, teacher_head, student_head)


def _unfrozen(connected: Tensor, embedding: Tensor, teacher_head: nn.Module, student_head: nn.Module):
    return regression_loss(connected, embedding, teacher_head.requires_grad_(True), student_head)


EXERCISES = {
    "connected": Exercise(
        reference=connected,
        probe=_probe_connected,
        mutants=(
            Mutant(
                "averaged first",
                lambda connector, maps: connector(maps.mean((2, 3), keepdim=True)).flatten(1),
                "you average first and apply the connector afterwards, which is the order of a later port; "
                "here the connector receives the map.",
            ),
            Mutant(
                "maximum",
                lambda connector, maps: connector(maps).amax((2, 3)),
                "the teacher's embedding is an average over positions, not a maximum; yours must be an "
                "average as well.",
            ),
            Mutant(
                "sum",
                lambda connector, maps: connector(maps).sum((2, 3)),
                "a sum grows with the map; average over height and width.",
            ),
            Mutant(
                "over the batch",
                lambda connector, maps: connector(maps).mean((0, 2, 3)),
                "one vector is left for the whole batch; average over dims 2 and 3 only.",
            ),
            Mutant(
                "no averaging",
                lambda connector, maps: connector(maps),
                "this is still a map; average over its positions.",
            ),
            Mutant(
                "detached",
                lambda connector, maps: connected(connector, maps).detach(),
                "the values are right, but no gradient leaves this function, so neither the connector nor "
                "the student can learn; use neither detach nor no_grad here.",
            ),
            Mutant(
                "cut off from the student",
                lambda connector, maps: connected(connector, maps.detach()),
                "the connector learns, but the student does not, because its map is detached; leave the map "
                "as it is.",
            ),
            Mutant(
                "switched to eval",
                _switched_to_eval,
                "you switched the connector into eval mode, and it stays there; whoever trains it chooses "
                "its mode, so leave the mode as it is.",
            ),
        ),
        advice=(
            "compute connector(final) once and without changing its mode, then take the mean over dims 2 and "
            "3; the gradient must reach the map and the connector."
        ),
    ),
    "feature_matching": Exercise(
        reference=feature_matching_loss,
        probe=_probe_matching,
        mutants=(
            Mutant(
                "sum over entries",
                lambda s, t: (s - t).square().sum(1).mean(),
                "you summed over the D entries, which gives D times the mean; the loss weights here assume a "
                "mean, so average over the entries as well.",
            ),
            Mutant(
                "sum over everything",
                lambda s, t: (s - t).square().sum(),
                "a sum grows with the batch and with the width; take the mean over samples and entries.",
            ),
            Mutant(
                "half",
                lambda s, t: F.mse_loss(s, t) / 2,
                "your loss is half of the mean squared difference; leave the factor 1/2 out, because the "
                "loss weights here assume the mean itself.",
            ),
            Mutant(
                "detached",
                lambda s, t: F.mse_loss(s.detach(), t),
                "the value is right, but no gradient reaches the student's vectors; if you detach anything, "
                "detach the teacher's.",
            ),
            Mutant(
                "norm",
                lambda s, t: (s - t).norm(dim=1).mean(),
                "the norm is not squared, so its gradient is as large near the target as far from it.",
            ),
            Mutant(
                "unit vectors",
                lambda s, t: F.mse_loss(F.normalize(s), F.normalize(t)),
                "normalising removes the lengths of the vectors, but the head depends on them; do not "
                "normalise.",
            ),
            Mutant(
                "absolute",
                lambda s, t: (s - t).abs().mean(),
                "you took absolute differences; they must be squared.",
            ),
        ),
        advice="average the squared differences over samples and entries, as F.mse_loss does by default.",
    ),
    "softmax_regression": Exercise(
        reference=regression_loss,
        probe=_probe_regression,
        mutants=(
            Mutant(
                "student's head",
                lambda c, e, teacher, student: F.mse_loss(student(c), teacher(e)),
                "the student's features pass through the student's own head here; they must pass through "
                "the teacher's head.",
            ),
            Mutant(
                "student's head for both",
                lambda c, e, teacher, student: F.mse_loss(student(c), student(e)),
                "both logits come from the student's head, which has learned nothing yet; use the teacher's"
                " head for both.",
            ),
            Mutant(
                "heads swapped",
                lambda c, e, teacher, student: F.mse_loss(teacher(c), student(e)),
                "the target comes from the wrong head; the teacher's logits are computed by the teacher's "
                "head from the teacher's features.",
            ),
            Mutant(
                "probabilities",
                lambda c, e, teacher, student: F.mse_loss(teacher(c).softmax(1), teacher(e).softmax(1)),
                "you compare probabilities, which hardly change where the teacher is sure; compare the "
                "logits.",
            ),
            Mutant(
                "divergence",
                lambda c, e, teacher, student: kd_loss(teacher(c), teacher(e), 1.0),
                "that is the KL divergence of distillation; here the loss is the mean squared difference of"
                " the logits.",
            ),
            Mutant(
                "sum over classes",
                lambda c, e, teacher, student: (teacher(c) - teacher(e)).square().sum(1).mean(),
                "your loss is K times too large; take the mean over the classes as well as over the samples.",
            ),
            Mutant(
                "no gradient",
                _no_grad,
                "the value is right, but no gradient reaches the student; the head is frozen already, so its "
                "side needs neither no_grad nor detach.",
            ),
            Mutant(
                "sum over everything",
                lambda c, e, teacher, student: (teacher(c) - teacher(e)).square().sum(),
                "a sum grows with the batch and with the number of classes; take the mean over both.",
            ),
            Mutant(
                "unfrozen",
                _unfrozen,
                "the loss is right, but your function unfreezes the teacher's head; it must not change its "
                "requires_grad.",
            ),
        ),
        advice="take the mean squared difference of teacher_head(connected) and teacher_head(embedding).",
    ),
    "the_loss_that_never_falls": Exercise(
        reference=regression_loss,
        probe=_probe_regression,
        mutants=(
            Mutant(
                "no gradient",
                _no_grad,
                "the bug is still in there: the value is right, so look at what else a loss has to give.",
            ),
            Mutant(
                "past the head",
                lambda c, e, teacher, student: feature_matching_loss(c, e),
                "now a gradient flows, but not through the head; this is feature matching, which weights "
                "all directions equally.",
            ),
            Mutant(
                "student's head",
                lambda c, e, teacher, student: F.mse_loss(student(c), teacher(e)),
                "now a gradient flows, but through the student's head, which would then move towards the "
                "target itself.",
            ),
            Mutant(
                "unfrozen",
                _unfrozen,
                "a gradient flows now, but the teacher's head is no longer frozen, so training would change "
                "the judge; its weights need no gradient for a gradient to pass through it.",
            ),
        ),
        advice=(
            "the value must stay as it is, and the gradient must reach `connected` through the teacher's "
            "head."
        ),
        bug="no gradient",
    ),
}

QUESTIONS = {
    "blind_directions": "d2928e84dc14",
    "who_moves": "a8536ce3b389",
    "stranger": "6a772d59dc31",
}
