"""Reads what a study found back from its ``results.csv``."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kdnb.analysis import Interval, paired_difference
from kdnb.errors import InputError, require_choice
from kdnb.paths import course_folder

RESULTS = "results.csv"


@dataclass(frozen=True)
class RecordedStudy:
    """The finished runs of a study that its report compares.

    Attributes:
        runs: A row for every run, with the columns of ``results_table``.
    """

    runs: pd.DataFrame

    @property
    def accuracies(self) -> dict[str, list[float]]:
        """For every arm the test accuracies in percent after the last epoch, in the order of the seeds."""
        ordered = self.runs.sort_values("seed")
        return {arm: own["last"].tolist() for arm, own in ordered.groupby("arm", sort=False)}

    @property
    def settings(self) -> dict[str, dict[str, object]]:
        """For every arm the settings and options that its search chose, by name."""
        chosen = self.runs.drop_duplicates("arm").set_index("arm")["setting"].fillna("")
        return {arm: _values(words) for arm, words in chosen.items()}

    def difference(self, arm: str, baseline: str) -> Interval:
        """How much better one arm is than another, over the seeds that both have.

        Args:
            arm: Name of an arm.

            baseline: Name of the arm that it is compared with.

        Returns:
            The mean difference in points, with its 95 % interval.

        Raises:
            InputError: For an unknown arm, and for fewer than two common seeds.
        """
        for name in (arm, baseline):
            require_choice("arm", name, self.accuracies)
        by_seed = self.runs.pivot_table("last", "seed", "arm")[[arm, baseline]].dropna()
        return paired_difference(by_seed[arm].tolist(), by_seed[baseline].tolist())


def recorded(study: str | Path) -> RecordedStudy:
    """A study that ships with the course, or any other, as its report left it.

    Args:
        study: The name of a study in ``data/studies``, or a folder with a ``results.csv``.

    Raises:
        InputError: If there is no such study, or if none of its runs is finished.

    Example:
        >>> study = recorded("task")
        >>> len(study.accuracies["labels only"])
        5
    """
    folder = Path(study)
    if not folder.is_dir():
        shipped = course_folder("data") / "studies"
        names = sorted(path.parent.name for path in shipped.glob(f"*/{RESULTS}"))
        folder = shipped / require_choice("study", str(study), names)
    try:
        table = pd.read_csv(folder / RESULTS, dtype={"setting": str})
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{folder} holds no {RESULTS} that can be read: {error}.") from error
    found = table[(table["phase"] == "report") & (table["status"] == "finished")]
    if found.empty:
        raise InputError(f"{folder / RESULTS} has no finished run; 'kdnb study run' makes them.")
    return RecordedStudy(found.reset_index(drop=True))


def _values(words: str) -> Mapping[str, object]:
    """``"lr=0.1, variant=uniform"`` as values by name."""
    pairs = (pair.split("=", 1) for pair in words.split(", ") if pair)
    return {name: _value(word) for name, word in pairs}


def _value(word: str) -> object:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(word, word))
    except (ValueError, SyntaxError):
        return word
