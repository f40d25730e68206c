"""Exercises that check themselves and stay green: a stub, a check under it, and a function to go on
with, the reader's own where it is right."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor

from kdnb.errors import require_choice

Probe = Callable[[Callable], list[Tensor]]


class Mutant(NamedTuple):
    """A known misconception: a function that has it, and the hint it deserves."""

    name: str
    function: Callable
    hint: str


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    reference: the library's own version, which is the answer key. probe: runs a version on fixed
    inputs and returns the tensors that must agree, values and gradients. mutants: misconceptions
    that are recognised by giving the same tensors. bug: in a bug hunt, the mutant the reader starts
    from. advice: for a wrong version that no mutant explains.
    """

    reference: Callable
    probe: Probe
    mutants: tuple[Mutant, ...]
    advice: str
    bug: str | None = None


@dataclass
class Lesson:
    """The exercises and questions of one notebook, and how far its reader has come.

    questions: for each multiple-choice question the hash of its right answer (``hashed``). With
    ``KDNB_STRICT=1`` in the environment (for grading), anything not passed raises AssertionError;
    otherwise nothing here ever raises for a wrong answer.
    """

    exercises: dict[str, Exercise]
    questions: dict[str, str]
    done: dict[str, bool] = field(default_factory=dict)

    def check(self, name: str, attempt: Callable) -> Callable:
        """Prints one line on ``attempt`` and returns the function to use from here on."""
        exercise = self.exercises[require_choice("exercise", name, self.exercises)]
        passed, line = _judge(name, exercise, attempt)
        self._say(name, passed, line)
        return attempt if passed else exercise.reference

    def bug_hunt(self, name: str, attempt: Callable) -> Callable:
        """``check`` for a function that starts with a bug in it."""
        return self.check(name, attempt)

    def predict(self, question: str, answer: str | EllipsisType) -> None:
        """Notes a prediction made before the reveal. ``...`` is no answer yet."""
        key = self.questions[require_choice("question", question, self.questions)]
        if answer is ...:
            self._say(question, False, f"[todo] {question}: choose a letter, then run on to see.")
        elif hashed(question, str(answer).strip().lower()) == key:
            self._say(question, True, f"[right] {question}: run on to see why.")
        else:
            self._say(question, False, f"[not this time] {question}: run on to see why.")

    def progress(self) -> None:
        """Prints what is done and what is left."""
        names = [*self.exercises, *self.questions]
        left = [name for name in names if not self.done.get(name)]
        rest = f" Left: {', '.join(left)}." if left else " All done."
        _print(f"{len(names) - len(left)} of {len(names)} done.{rest}")

    def _say(self, name: str, passed: bool, line: str) -> None:
        self.done[name] = passed
        if os.environ.get("KDNB_STRICT") == "1" and not passed:
            raise AssertionError(line)
        _print(line)


def hashed(question: str, answer: str) -> str:
    """How a right answer is stored, so that reading the source does not give it away."""
    return sha256(f"{question}:{answer}".encode()).hexdigest()[:12]


def _judge(name: str, exercise: Exercise, attempt: Callable) -> tuple[bool, str]:
    try:
        found = exercise.probe(attempt)
    except _NotAttempted:
        return False, (
            f"[todo] {name}: not attempted yet; the notebook continues with the reference version."
        )
    except Exception as error:  # the reader's code may do anything; the notebook goes on
        return False, f"[try again] {name}: it raised {type(error).__name__}: {error}"
    if _agree(found, exercise.probe(exercise.reference)):
        return True, f"[passed] {name}: your version is used from here on."
    for mutant in exercise.mutants:
        if _agree(found, exercise.probe(mutant.function)):
            word = "todo" if mutant.name == exercise.bug else "try again"
            return False, f"[{word}] {name}: {mutant.hint}"
    return False, f"[try again] {name}: {exercise.advice}"


class _NotAttempted(Exception):
    """The stub still returns ``...``."""


def tensor_from(value: object) -> Tensor:
    """For probes: what an attempt returned, as a tensor; tells a stub from a wrong type."""
    if value is ...:
        raise _NotAttempted
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"expected a tensor, found {type(value).__name__}") from None


def value_and_gradients(function: Callable, *inputs: Tensor) -> list[Tensor]:
    """For probes: what ``function`` makes of the inputs, then its gradient in each of them.

    A detached input gives the right value and the wrong gradient: both are looked at.
    """
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    value = tensor_from(function(*leaves))
    if not value.requires_grad:
        return [value, *map(torch.zeros_like, inputs)]
    scale = torch.linspace(1, 2, value.numel(), dtype=torch.float64).reshape(value.shape)
    found = torch.autograd.grad((scale * value).sum(), leaves, allow_unused=True, materialize_grads=True)
    return [value.detach(), *found]


def _agree(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-7)
        for a, b in zip(found, expected, strict=True)
    )


def _print(line: str) -> None:
    print(line)  # noqa: T201 (a notebook speaks to its reader)
