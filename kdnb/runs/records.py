"""Records of finished runs: what is kept of one run, and many runs as a table."""

import json
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torchvision

from kdnb import __version__
from kdnb.analysis import paired_difference
from kdnb.errors import InputError, require_choice
from kdnb.methods import METHODS
from kdnb.paths import PROJECT
from kdnb.runs.options import method_options, option_word, recorded_options
from kdnb.runs.spec import Spec

FIRST_SHAPES = "da032e229de26dd3"  # fingerprint of what the first edition called shapes


@dataclass(frozen=True)
class Record:
    """What a finished run leaves in ``run.json``; ``history.csv`` and the student lie beside it.

    Attributes:
        spec: The settings of the run, with the method's own values where the user set none.

        metrics: For every learner the test accuracy in percent, three ways that are never to be mixed:
            ``last`` epoch; ``selected`` at the epoch with the best validation accuracy; and ``best`` on
            the test part itself, as several papers report it and as nobody should choose. The latter two
            are among the epochs that were evaluated: every ``evaluate_every``-th, and the last.

        versions: Of Python and of the packages that a result depends on.

        device: Where it was trained.

        code: The commit that was checked out.

        data: Fingerprint of the data.

        teacher: Checksum of the teacher's file; None without a teacher.

        student: Checksum of the student's file.

        seconds: Wall time over all sittings.

        evaluate_every: Epochs from one evaluation to the next.

        options: All options of the method, so that a default that changes later does not change what was
            run; None in older records.

        loading: How the pictures were held: in ``"memory"``, in a ``"cache"`` on disk, which gives the same
            bits, or as a ``"stream"``, decoded anew whenever they were shown, in training as random resized
            crops.
    """

    spec: dict
    metrics: dict[str, dict[str, float]]
    versions: dict[str, str]
    device: str
    code: str
    data: str
    teacher: str | None
    student: str
    seconds: float
    evaluate_every: int = 1
    options: dict | None = None
    loading: str = "memory"


def read(folder: Path) -> Record:
    """The record of a finished run.

    What the first edition of the course called ``shapes`` is ``shapes-v1`` in its ``spec``.

    Args:
        folder: Of the run.

    Raises:
        InputError: If there is none, or it is damaged.
    """
    path = Path(folder) / "run.json"
    try:
        record = Record(**json.loads(path.read_text()))
        if record.data == FIRST_SHAPES:
            record.spec["data"] = "shapes-v1"
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not the record of a finished run ({error}).") from error
    return record


def require_defaults_of_today(options: dict | None, spec: Spec, folder: Path) -> None:
    """Checks that a default which changed since does not make an old run pass for a new one.

    A default that changes, changes what is run, but not the name of the folder.

    Args:
        options: What the run in ``folder`` kept of its options; None, of older runs, passes.

        spec: What would be run today.

        folder: For the message.

    Raises:
        InputError: Where the run had other options than ``spec`` has today.
    """
    today, kept = spec.all_options, recorded_options(spec.kind, options or {})
    changed = {name: value for name, value in kept.items() if today.get(name, value) != value}
    if changed:
        then = ", ".join(f"{name}={option_word(value)}" for name, value in changed.items())
        now = ", ".join(f"{name}={option_word(today[name])}" for name in changed)
        raise InputError(
            f"{folder} was run with {then}, the default of its day; today's is {now}. Choose another --out "
            "for today's, or --force to replace it."
        )


def table(folder: Path) -> pd.DataFrame:
    """All finished runs below a folder.

    Args:
        folder: Of runs, or of folders of runs.

    Returns:
        A row for every learner of every run. Columns are the run's folder, the settings, the method's
        options (where a record does not tell one, today's default), the learner, and the metrics.
    """
    rows = []
    for path in sorted(Path(folder).rglob("run.json")):
        record = read(path.parent)
        kind = METHODS[record.spec["method"]]
        kept = recorded_options(kind, record.spec["options"] | (record.options or {}))
        options = method_options(kind) | kept
        for learner, metrics in record.metrics.items():
            about = {"run": path.parent.name} | record.spec | options
            about |= {"learner": learner, "seconds": record.seconds}
            rows.append(about | metrics)
    return pd.DataFrame(rows)


def compared(runs: pd.DataFrame, name: str, *, baseline: str) -> pd.DataFrame:
    """Groups of runs against a baseline, paired by seed.

    Args:
        runs: Rows of ``table``, one for every seed and value of the column ``name``.

        name: The column that names the groups.

        baseline: The group that the others are compared with.

    Returns:
        A row for every group, in the order they come in: the number of ``seeds``; ``mean`` and standard
        deviation ``std`` of the accuracy at the last epoch; the mean ``difference`` from the baseline over
        the seeds that both have, and the ends ``low`` and ``high`` of its 95 % interval (NaN where fewer
        than two are paired, and for the baseline itself).

    Raises:
        InputError: For a baseline that is not there, or two rows of one name and seed.
    """
    require_choice(name, baseline, map(str, runs[name].unique()))
    if (twice := runs.duplicated([name, "seed"])).any():
        found = runs.loc[twice, [name, "seed"]].iloc[0].tolist()
        raise InputError(f"Two runs are named {found[0]!r} with seed {found[1]}: tell them apart, or choose.")
    scores = runs.pivot(index="seed", columns=name, values="last")
    rows = {}
    for kind in runs[name].unique():
        own, paired = scores[kind].dropna(), scores[[kind, baseline]].dropna()
        row = {"seeds": len(own), "mean": own.mean(), "std": own.std()}
        if kind != baseline and len(paired) > 1:
            gain = paired_difference(paired[kind].tolist(), paired[baseline].tolist())
            row |= {"difference": gain.mean, "low": gain.low, "high": gain.high}
        rows[kind] = row
    columns = ["seeds", "mean", "std", "difference", "low", "high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def metrics_of(history: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The metrics of a record.

    Args:
        history: A row for every epoch. Those without an evaluation are passed over.

    Returns:
        For every learner the accuracies and epochs that ``Record.metrics`` describes.
    """
    metrics = {}
    for column in history.columns[history.columns.str.startswith("test/")]:
        learner = column.removeprefix("test/")
        evaluated = history.dropna(subset=[column])
        test, validation = evaluated[column], evaluated[f"validation/{learner}"]
        metrics[learner] = {
            "last": float(test.iloc[-1]),
            "selected": float(test[validation.idxmax()]),
            "selected_epoch": int(evaluated["epoch"][validation.idxmax()]),
            "best": float(test.max()),
            "best_epoch": int(evaluated["epoch"][test.idxmax()]),
        }
    return metrics


def versions() -> dict[str, str]:
    """Of all that a result may depend on."""
    return {
        "kdnb": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def code_version() -> str:
    """The commit that is checked out, with a + if files differ from it; "unknown" without git."""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty=+", "--abbrev=10"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
