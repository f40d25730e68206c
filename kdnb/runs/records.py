"""Records of finished runs: what is kept of one, and many as a table."""

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
from kdnb.runs.spec import Spec, method_options


@dataclass(frozen=True)
class Record:
    """What a finished run leaves in ``run.json``; ``history.csv`` and the student lie beside it.

    metrics: by learner, test accuracy in percent three ways, never to be mixed: ``last`` epoch;
    ``selected`` at the epoch with the best validation accuracy; ``best`` on the test part itself,
    as several papers report it and as nobody should choose; both of the epochs evaluated, every
    ``evaluate_every``-th and the last. seconds: wall time over all sittings. options: all of the
    method's, so that a default changed later does not change what was run; None in older records.
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


def read(folder: Path) -> Record:
    """The record of a finished run. Raises InputError if there is none, or it is damaged."""
    path = Path(folder) / "run.json"
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not the record of a finished run ({error}).") from error


def require_defaults_of_today(options: dict | None, spec: Spec, folder: Path) -> None:
    """Raises InputError where a run in ``folder`` had other ``options`` than ``spec`` has today: a default
    that changed since changes what is run, but not the folder's name. None, of older runs, passes."""
    today = spec.all_options
    changed = {name: value for name, value in (options or {}).items() if today.get(name, value) != value}
    if changed:
        then = ", ".join(f"{name}={value}" for name, value in changed.items())
        now = ", ".join(f"{name}={today[name]}" for name in changed)
        raise InputError(
            f"{folder} was run with {then}, the default of its day; today's is {now}. Choose another --out "
            "for today's, or --force to replace it."
        )


def table(folder: Path) -> pd.DataFrame:
    """All finished runs below ``folder``, one row a learner: the run's folder, the spec, the method's
    options (where a record does not say, today's defaults) and the metrics as columns."""
    rows = []
    for path in sorted(Path(folder).rglob("run.json")):
        record = read(path.parent)
        today = method_options(METHODS[record.spec["method"]])
        for learner, metrics in record.metrics.items():
            options = today | record.spec["options"] | (record.options or {})
            about = {"run": path.parent.name} | record.spec | options
            about |= {"learner": learner, "seconds": record.seconds}
            rows.append(about | metrics)
    return pd.DataFrame(rows)


def compared(runs: pd.DataFrame, name: str, *, baseline: str) -> pd.DataFrame:
    """Rows of ``table``, one a seed and value of column ``name``, against those named ``baseline``.

    A row a name, in the order they come in: how many seeds, mean and standard deviation of the accuracy
    at the last epoch; then the mean ``difference`` from the baseline over the seeds that both have, and the
    ends of its 95 % interval (NaN where fewer than two are paired, and for the baseline itself).

    Raises InputError for a baseline that is not there, or two rows of one name and seed.
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
    """The metrics of a record, from the table of its epochs; those not evaluated are passed over."""
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
