"""How far a study has come: what is finished, what each arm has chosen, and which runs can start now.

All of it is read from the folder of the runs. So a study that was stopped goes on where it was, and an arm or
a seed that is added later brings new runs only.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kdnb.errors import InputError, require_choice
from kdnb.files import write_whole
from kdnb.runs import Record, Spec, read
from kdnb.runs.records import require_defaults_of_today
from kdnb.studies.plan import Arm, Study, Values

FAILURE = "failed.json"  # in the folder of a run that failed
DIVERGED = "NotFinite"  # the one kind of failure that would only repeat itself


@dataclass(frozen=True)
class Finished:
    """A run that was trained to its end.

    Attributes:
        record: Its record.

        validation: Validation accuracy in percent after the last epoch, by learner.
    """

    record: Record
    validation: Mapping[str, float]


@dataclass(frozen=True)
class Failed:
    """A run that ended in an error.

    Attributes:
        kind: The name of the error's class.

        message: What it said.
    """

    kind: str
    message: str


class Progress:
    """Reads the folder of a study's runs, and says what can be done next.

    Args:
        study: The study.

        out: The folder of its runs.
    """

    def __init__(self, study: Study, out: Path) -> None:
        self.study, self.out = study, Path(out)
        self._known: dict[str, Finished | Failed] = {}
        self._specs: dict[tuple, Spec] = {}

    def outcome(self, spec: Spec) -> Finished | Failed | None:
        """What became of a run; None while it is not finished.

        Args:
            spec: The run.

        Raises:
            InputError: If the run was made under a default that has changed since, or its files are damaged.
        """
        if (name := spec.name) not in self._known and (found := _outcome(self.out / name)) is not None:
            if isinstance(found, Finished):
                require_defaults_of_today(found.record.options, spec, self.out / name)
            self._known[name] = found
        return self._known.get(name)

    def note_failure(self, spec: Spec, kind: str, message: str) -> None:
        """Keeps in the folder of a run that it failed.

        Args:
            spec: The run.

            kind: The name of the error's class.

            message: What it said.

        Raises:
            InputError: If the folder cannot be written, for example because the disk is full.
        """
        content = json.dumps({"kind": kind, "message": message}, indent=1)
        write_whole(self.out / spec.name / FAILURE, content + "\n")
        self._known[spec.name] = Failed(kind, message)

    def forget_failures(self) -> None:
        """Lets runs that failed be tried again, except those whose loss or weights were not finite."""
        for path in self.out.glob(f"*/{FAILURE}"):
            if _failure(path).kind != DIVERGED:
                path.unlink()
        self._known = {name: found for name, found in self._known.items() if isinstance(found, Finished)}

    def searched(self, arm: Arm) -> Iterator[tuple[Values, int, Spec | None]]:
        """The runs of an arm's search.

        Args:
            arm: The arm.

        Yields:
            The trial, the seed, and the run, which is None as long as the arm waits for its teacher.
        """
        if len(arm.trials) > 1:
            for trial in arm.trials:
                for seed in self.study.search_seeds:
                    spec = self._run(arm, trial, seed)
                    yield trial, seed, spec and self.study.in_search(spec)

    def scores(self, arm: Arm) -> list[float | None]:
        """How every trial of an arm did in the search.

        Args:
            arm: The arm.

        Returns:
            For each trial the mean validation accuracy over the search's seeds. It is None while a run is
            missing, and minus infinity where a run failed.
        """
        runs: dict[int, list] = {}
        for trial, _, spec in self.searched(arm):
            runs.setdefault(arm.trials.index(trial), []).append(spec and self.outcome(spec))
        return [_mean(arm, outcomes) for outcomes in runs.values()]

    def choice(self, arm: Arm) -> Values | None:
        """The trial with the best validation accuracy, the first of equals.

        Args:
            arm: The arm.

        Returns:
            The trial; None while the search is not finished, and where every trial failed.
        """
        if len(arm.trials) == 1:
            return arm.trials[0]
        scores = self.scores(arm)
        if None in scores or max(scores) == float("-inf"):
            return None
        return arm.trials[scores.index(max(scores))]

    def reported(self, arm: Arm) -> Iterator[tuple[int, Spec | None]]:
        """The runs of an arm that the report compares.

        Args:
            arm: The arm.

        Yields:
            The seed and the run, which is None as long as the search is not finished or its teacher is
            missing.
        """
        choice = self.choice(arm)
        for seed in self.study.seeds:
            yield seed, None if choice is None else self._run(arm, choice, seed)

    def ready(self) -> dict[str, Spec]:
        """The runs that can start now and have no outcome, by name: those of searches first."""
        found: dict[str, Spec] = {}
        for arm in self.study.arms.values():
            for _, _, spec in self.searched(arm):
                if spec is not None and self.outcome(spec) is None:
                    found[spec.name] = spec
        for arm in self.study.arms.values():
            for _, spec in self.reported(arm):
                if spec is not None and self.outcome(spec) is None:
                    found[spec.name] = spec
            found |= self._wanted_teachers(arm)
        return found

    def _wanted_teachers(self, arm: Arm) -> dict[str, Spec]:
        """Runs of the arm's teacher on the seeds of the search, where the teacher itself is not searched."""
        if arm.teacher_arm is None or len(arm.trials) == 1:
            return {}
        teacher = self.study.arms[arm.teacher_arm]
        choice = self.choice(teacher)
        if choice is None:
            return {}
        runs = (self._run(teacher, choice, seed) for seed in self.study.search_seeds)
        return {run.name: run for run in runs if run is not None and self.outcome(run) is None}

    def _run(self, arm: Arm, trial: Values, seed: int) -> Spec | None:
        """The run; None where the teacher that it needs is not there."""
        name = None
        if arm.teacher_arm is not None:
            teacher = self.study.arms[arm.teacher_arm]
            choice = self.choice(teacher)
            spec = None if choice is None else self._run(teacher, choice, seed)
            if spec is None or not isinstance(self.outcome(spec), Finished):
                return None
            name = spec.name
        key = (arm.name, arm.trials.index(trial), seed, name)
        if key not in self._specs:
            self._specs[key] = arm.run(trial, seed, name)
        return self._specs[key]


def counted_learner(arm: Arm, record: Record) -> str:
    """The learner of a run whose accuracy counts.

    Args:
        arm: The arm. The leader counts unless the arm names a learner; without a leader the first learner
            does. These are the learners that a run exports.

        record: Of one of its runs.

    Raises:
        InputError: If the arm names a learner that the run does not have.
    """
    if arm.learner is None:
        return "leader" if "leader" in record.metrics else next(iter(record.metrics))
    return require_choice(f"learner of arm {arm.name!r}", arm.learner, record.metrics)


def _mean(arm: Arm, outcomes: list[Finished | Failed | None]) -> float | None:
    if None in outcomes:
        return None
    if any(isinstance(outcome, Failed) for outcome in outcomes):
        return float("-inf")
    scores = [outcome.validation[counted_learner(arm, outcome.record)] for outcome in outcomes]
    return sum(scores) / len(scores)


def _outcome(folder: Path) -> Finished | Failed | None:
    if (folder / "run.json").exists():
        record = read(folder)
        try:
            last = pd.read_csv(folder / "history.csv").iloc[-1]
            return Finished(record, {name: float(last[f"validation/{name}"]) for name in record.metrics})
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise InputError(
                f"{folder} holds a finished run without a history that can be read ({error}). Remove the "
                "folder to have it trained again."
            ) from error
    return _failure(folder / FAILURE) if (folder / FAILURE).exists() else None


def _failure(path: Path) -> Failed:
    try:
        return Failed(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}). Remove it to have the run tried again.") from error
