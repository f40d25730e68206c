"""Exercises of notebook 06: the dynamic kernel, the one-way link, and the gradients that it returns."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from kdnb.exercises import returning
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import NotAttempted, normal, same_type, tensor_from, value_and_gradients


def dynamic_kernels(static: Tensor, experts: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Computes the kernels with which a DynamicAdditiveConv convolves each image.

    Args:
        static: The static kernel, shape (O, I, h, w).

        experts: The kernels of K experts, shape (K, O, I, h, w).

        scores: Scores of the experts for each image, shape (B, K).

        temperature: Temperature of the softmax that turns scores into weights.

    Returns:
        One kernel for each image, shape (B, O, I, h, w).
    """
    weights = (scores / temperature).softmax(1)
    return static + torch.einsum("bk,koihw->boihw", weights, experts)


def joined(student: nn.Module, teacher: nn.Module, h_s: Tensor, h_t: Tensor, c: float) -> tuple:
    """Computes one convolution of the student and of the teacher that is linked to it.

    Args:
        student: The student's convolution.

        teacher: The teacher's convolution.

        h_s: Input of the student's convolution, shape (B, C_s, H, W).

        h_t: Input of the teacher's convolution, shape (B, C_t, H, W).

        c: Factor of the link.

    Returns:
        The outputs (z_s, z_t). The student's output is added, times ``c``, to the teacher's.
    """
    z_s = student(h_s)
    return z_s, teacher(h_t) + c * z_s


def _probe_kernels(function) -> list[Tensor]:
    """Returns kernels and gradients for two settings, and facts about kernels of float32 numbers."""
    found = []
    for B, K, shape, temperature in ((5, 4, (3, 2, 3, 3), 2.0), (2, 3, (2, 4, 3, 1), 0.5)):
        inputs = normal(0, *shape), normal(1, K, *shape), normal(2, B, K)
        found += value_and_gradients(partial(_at_temperature, function, temperature), *inputs)
    single = [tensor.float() for tensor in inputs]
    return [*found, same_type(tensor_from(function(*single, 2.0)), single[0])]


def _at_temperature(function, temperature: float, *inputs: Tensor) -> Tensor:
    return function(*inputs, temperature)


def _probe_joined(function) -> list[Tensor]:
    """Returns both outputs, their gradients in all weights and inputs, and whether a module ran twice."""
    found = []
    for c in (0.7, 2.0):
        (student, teacher), runs = _counted_convolutions()
        h_s, h_t = (normal(seed, 3, 2, 4, 4).requires_grad_() for seed in (1, 2))
        outputs = _two_maps(function(student, teacher, h_s, h_t, c))
        twice = [float(runs.count(module) > 1) for module in (student, teacher)]
        places = [student.weight, teacher.weight, h_s, h_t]
        found += [*outputs, *_gradients(outputs, places), torch.tensor(twice)]
    return [tensor.detach() for tensor in found]


def _counted_convolutions() -> tuple[list[nn.Module], list[nn.Module]]:
    """Two convolutions, and a list to which each of them is added whenever it runs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = [nn.Conv2d(2, 2, 3, padding=1).double() for _ in range(2)]
    runs = []
    for module in modules:
        module.register_forward_hook(lambda module, inputs, output: runs.append(module))
    return modules, runs


def _two_maps(made: object) -> list[Tensor]:
    if made is ...:
        raise NotAttempted
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise TypeError("expected two maps, z_s and z_t")
    return [tensor_from(maps) for maps in made]


def _gradients(outputs: list[Tensor], places: list[Tensor]) -> list[Tensor]:
    asked = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    found = []
    for maps in outputs:
        found += torch.autograd.grad((maps * normal(3, *maps.shape)).sum(), places, **asked)
    return found


def _from_outputs(combine: Callable) -> Callable:
    """A version of ``joined`` that runs both convolutions once and combines their outputs."""
    return lambda student, teacher, h_s, h_t, c: combine(student(h_s), teacher(h_t), c)


def _run_twice(student, teacher, h_s, h_t, c) -> tuple[Tensor, Tensor]:
    return student(h_s), teacher(h_t) + c * student(h_s)


def _teacher_reads_student(student, teacher, h_s, h_t, c) -> tuple[Tensor, Tensor]:
    z_s = student(h_s)
    return z_s, teacher(h_s) + c * z_s


EXERCISES = {
    "dynamic_kernels": Exercise(
        reference=dynamic_kernels,
        probe=_probe_kernels,
        mutants=(
            Mutant(
                "experts alone",
                lambda V, E, s, T: torch.einsum("bk,koihw->boihw", (s / T).softmax(1), E),
                "that is a dynamic convolution; the *additive* one adds a static kernel to it, which is the"
                " same for every image.",
            ),
            Mutant(
                "one kernel for the batch",
                lambda V, E, s, T: (
                    V + torch.einsum("k,koihw->oihw", (s / T).softmax(1).mean(0), E).expand(len(s), *V.shape)
                ),
                "you averaged the weights of the experts over the batch, so all images get the same kernel "
                "and nothing is dynamic.",
            ),
            Mutant(
                "softmax over the batch",
                lambda V, E, s, T: V + torch.einsum("bk,koihw->boihw", (s / T).softmax(0), E),
                "here the weights of each expert sum to 1 over the images; the weights of one image must "
                "sum to 1, so use softmax(1).",
            ),
            Mutant(
                "temperature the wrong way",
                lambda V, E, s, T: dynamic_kernels(V, E, s, 1 / T),
                "a high temperature must make the weights of the experts equal; divide the scores by it.",
            ),
            Mutant(
                "without temperature",
                lambda V, E, s, T: dynamic_kernels(V, E, s, 1.0),
                "the temperature changes nothing in your version; divide the scores by it.",
            ),
            Mutant(
                "temperature after the softmax",
                lambda V, E, s, T: V + torch.einsum("bk,koihw->boihw", s.softmax(1) / T, E),
                "you divided after the softmax, so the weights of the experts sum to 1 / T; divide the "
                "scores instead.",
            ),
            Mutant(
                "no softmax",
                lambda V, E, s, T: V + torch.einsum("bk,koihw->boihw", s / T, E),
                "scores may be negative and of any size; a softmax turns them into weights that sum to 1.",
            ),
            Mutant(
                "sigmoid",
                lambda V, E, s, T: V + torch.einsum("bk,koihw->boihw", (s / T).sigmoid(), E),
                "that is the gate of CondConv, which weights each expert on its own; here the weights must "
                "sum to 1, so use a softmax.",
            ),
            Mutant(
                "the best expert",
                lambda V, E, s, T: V + E[s.argmax(1)],
                "choosing the best expert has no gradient for the scores; mix all of them.",
            ),
            Mutant(
                "multiplied",
                lambda V, E, s, T: V * torch.einsum("bk,koihw->boihw", (s / T).softmax(1), E),
                "the mixture is added to the static kernel, as the name says.",
            ),
            Mutant(
                "detached weights",
                lambda V, E, s, T: dynamic_kernels(V, E, s.detach(), T),
                "the kernels are right, but no gradient reaches the scores, so the attention would never "
                "learn; do not detach them.",
            ),
            Mutant(
                "detached experts",
                lambda V, E, s, T: dynamic_kernels(V, E.detach(), s, T),
                "the kernels are right, but no gradient reaches the experts, so they would stay as they are.",
            ),
            Mutant(
                "in double precision",
                lambda V, E, s, T: dynamic_kernels(V.double(), E.double(), s.double(), T),
                "the kernels are right, but they are float64 for float32 inputs, and a convolution takes one "
                "type of numbers only.",
            ),
        ),
        advice='static + torch.einsum("be,eoihw->boihw", (scores / temperature).softmax(1), experts).',
    ),
    "joined": Exercise(
        reference=joined,
        probe=_probe_joined,
        mutants=(
            Mutant(
                "wrong direction",
                _from_outputs(lambda z_s, z_t, c: (z_s + c * z_t, z_t)),
                "your link leads from the teacher to the student; without the teacher, the student would "
                "compute something else.",
            ),
            Mutant(
                "both directions",
                _from_outputs(lambda z_s, z_t, c: (z_s + c * z_t, z_t + c * z_s)),
                "you linked both directions, so the student's output needs a teacher that will be removed.",
            ),
            Mutant(
                "detached",
                _from_outputs(lambda z_s, z_t, c: (z_s, z_t + c * z_s.detach())),
                "the values are right, but no gradient returns, so the student learns nothing from its "
                "teacher.",
            ),
            Mutant(
                "run twice",
                _run_twice,
                "the values are right, but the student's convolution runs twice; compute z_s once, and use "
                "it for both outputs.",
            ),
            Mutant(
                "without c",
                _from_outputs(lambda z_s, z_t, c: (z_s, z_t + z_s)),
                "the factor c is missing; it multiplies what comes through the link.",
            ),
            Mutant(
                "swapped",
                _from_outputs(lambda z_s, z_t, c: (z_t + c * z_s, z_s)),
                "the two outputs are in the wrong order; return z_s first.",
            ),
            Mutant(
                "teacher reads the student's input",
                _teacher_reads_student,
                "the teacher's convolution reads the teacher's own input h_t; only the student's output "
                "passes through the link.",
            ),
            Mutant(
                "inputs linked",
                lambda s, t, h_s, h_t, c: (s(h_s), t(h_t + c * h_s)),
                "you linked the inputs, so the student's convolution is bypassed and gets no gradient.",
            ),
            Mutant(
                "scale on the teacher",
                _from_outputs(lambda z_s, z_t, c: (z_s, c * z_t + z_s)),
                "c scales what comes through the link, not the teacher's own part.",
            ),
            Mutant(
                "replaced",
                _from_outputs(lambda z_s, z_t, c: (z_s, c * z_s)),
                "you dropped the teacher's own convolution; the link is added to its output.",
            ),
            Mutant(
                "after the ReLU",
                _from_outputs(lambda z_s, z_t, c: (z_s, z_t + c * z_s.relu())),
                "the link carries the output of the convolution itself, before batch norm and ReLU.",
            ),
        ),
        advice="z_s = student(h_s); return z_s, teacher(h_t) + c * z_s.",
    ),
    **returning.EXERCISES,
}

QUESTIONS = {
    "removal": "77de32a6260f",
    "detached": "bfaec2500f24",
    "advice": "ca57a9c95717",
    "leaning": "66bcc7a9f2d6",
}
