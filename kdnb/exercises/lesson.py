"""Exercises that check themselves in a notebook and never stop it.

A notebook holds a stub for the reader to fill in, and below it a check. The check returns the function
with which the notebook goes on: the reader's own if it is right, and the library's if it is not.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from types import EllipsisType
from typing import NamedTuple

import torch
from torch import Tensor

from kdnb.errors import require_choice
from kdnb.exercises.probes import NotAttempted

Probe = Callable[[Callable], list[Tensor]]


class Mutant(NamedTuple):
    """A known misconception, recognised by what it computes.

    Attributes:
        name: A short name of the misconception.

        function: A version of the exercise that has the misconception.

        hint: What the reader is told if their version gives the same tensors.
    """

    name: str
    function: Callable
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One function for the reader to write or to mend.

    Attributes:
        reference: The library's own version, which is the answer key.

        probe: Runs a version on fixed inputs and returns the tensors that must agree with the reference's,
            gradients included.

        mutants: The misconceptions that have hints of their own.

        advice: What the reader is told if their version is wrong and no mutant explains it.

        bug: In a bug hunt, the name of the mutant from which the reader starts. None for an ordinary
            exercise.
    """

    reference: Callable
    probe: Probe
    mutants: tuple[Mutant, ...]
    advice: str
    bug: str | None = None


@dataclass
class Lesson:
    """The exercises and questions of one notebook, with the reader's progress.

    A wrong answer prints a line and raises nothing. If the environment variable ``KDNB_STRICT`` is ``1``,
    as for grading, every exercise that is not passed raises AssertionError instead. Predictions are not
    graded: every answer counts as done.

    Attributes:
        exercises: The exercises by name.

        questions: For each multiple-choice question the hash of its right answer, as ``hashed`` computes it.

        done: For each exercise that was tried, whether the last version was right, and True for each question
            that was answered.

        came_true: For each question that was answered, whether the last answer was right.
    """

    exercises: dict[str, Exercise]
    questions: dict[str, str]
    done: dict[str, bool] = field(default_factory=dict)
    came_true: dict[str, bool] = field(default_factory=dict)

    def check(self, name: str, attempt: Callable) -> Callable:
        """Judges a version of an exercise and prints one line about it.

        Args:
            name: Name of the exercise.

            attempt: The reader's version.

        Returns:
            The function to use from here on: ``attempt`` if it is right, otherwise the reference.

        Raises:
            InputError: If there is no exercise of that name.
            AssertionError: If the attempt is not right and ``KDNB_STRICT`` is ``1``.
        """
        exercise = self.exercises[require_choice("exercise", name, self.exercises)]
        passed, line = _judge(name, exercise, attempt)
        self._record(name, passed, line)
        return attempt if passed else exercise.reference

    def bug_hunt(self, name: str, attempt: Callable) -> Callable:
        """Does what ``check`` does, for an exercise whose code starts with a bug.

        Args:
            name: Name of the exercise.

            attempt: The reader's version.

        Returns:
            The function to use from here on: ``attempt`` if it is right, otherwise the reference.

        Raises:
            InputError: If there is no exercise of that name.
            AssertionError: If the attempt is not right and ``KDNB_STRICT`` is ``1``.
        """
        return self.check(name, attempt)

    def predict(self, question: str, answer: str | EllipsisType) -> None:
        """Records a prediction that the reader makes before the notebook shows the result.

        Args:
            question: Name of the question.

            answer: The letter of the chosen answer, or ``...`` if the reader has not chosen yet.

        Raises:
            InputError: If there is no question of that name.
        """
        key = self.questions[require_choice("question", question, self.questions)]
        letter = "" if answer is ... else str(answer).strip().lower()
        if letter not in ("a", "b", "c"):
            _print(f"[todo] {question}: choose a letter, then run on to see.")
            return
        self.done[question], self.came_true[question] = True, hashed(question, letter) == key
        word = "right" if self.came_true[question] else "not this time"
        _print(f"[{word}] {question}: run on to see why.")

    def progress(self) -> None:
        """Prints what is done and what is left, and how many predictions were right."""
        names = [*self.exercises, *self.questions]
        left = [name for name in names if not self.done.get(name)]
        rest = f" Left: {', '.join(left)}." if left else " All done."
        _print(f"{len(names) - len(left)} of {len(names)} done.{rest}")
        if self.came_true:
            _print(f"{sum(self.came_true.values())} of {len(self.came_true)} predictions were right.")

    def _record(self, name: str, passed: bool, line: str) -> None:
        self.done[name] = passed
        if os.environ.get("KDNB_STRICT") == "1" and not passed:
            raise AssertionError(line)
        _print(line)


def hashed(question: str, answer: str) -> str:
    """Hashes an answer, so that reading the source does not give it away.

    Args:
        question: Name of the question.

        answer: Letter of the answer.

    Returns:
        Twelve hexadecimal digits.
    """
    return sha256(f"{question}:{answer}".encode()).hexdigest()[:12]


def _judge(name: str, exercise: Exercise, attempt: Callable) -> tuple[bool, str]:
    try:
        found = exercise.probe(attempt)
    except NotAttempted:
        return False, (
            f"[todo] {name}: not attempted yet; the notebook continues with the reference version."
        )
    except Exception as error:  # whatever the reader's code raises, the notebook goes on
        return False, f"[try again] {name}: it raised {type(error).__name__}: {error}"
    if _agree(found, exercise.probe(exercise.reference)):
        return True, f"[passed] {name}: your version is used from here on."
    for mutant in exercise.mutants:
        if _agree(found, exercise.probe(mutant.function)):
            word = "todo" if mutant.name == exercise.bug else "try again"
            return False, f"[{word}] {name}: {mutant.hint}"
    return False, f"[try again] {name}: {exercise.advice}"


def _agree(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-7)
        for a, b in zip(found, expected, strict=True)
    )


def _print(line: str) -> None:
    print(line)  # noqa: T201 (in a notebook, printing is how the reader is addressed)
