"""Runs notebooks without a browser, one or several at a time, each in a process of its own.

``notebooks`` reads the notebooks of the course, and ``grids`` the combinations of ``kdnb run --grid``.
``worker_pool`` starts the processes, and ``worker`` is the program that each of them runs. ``headline`` is
called by a notebook's last cell to hand its main numbers to the runner.
"""

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from kdnb.errors import InputError
from kdnb.files import write_whole
from kdnb.headless.grids import results_text
from kdnb.headless.notebooks import Notebook
from kdnb.headless.worker_pool import Failure, Outcome, Progress, RunOptions, WorkerPool, cores

__all__ = [
    "HEADLINE",
    "Failure",
    "Outcome",
    "Progress",
    "RunOptions",
    "cores",
    "headline",
    "headline_text",
    "keep",
    "kept",
    "read_summary",
    "run",
]

HEADLINE = "application/vnd.kdnb.headline+json"


def headline(**numbers: float) -> None:
    """Displays the main numbers of a notebook and hands them to the table that ``kdnb run`` prints.

    For example, ``headline(labels_only=48.1, kd=55.2)`` displays ``labels_only 48.1, kd 55.2``.

    Args:
        numbers: The numbers by name. They are rounded to six decimals.

    Raises:
        ValueError: If a value is not a finite number.
    """
    plain = {}
    for name, number in numbers.items():
        try:
            plain[name] = round(float(number), 6)
            finite = math.isfinite(plain[name])
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise ValueError(f"headline takes finite numbers; {name} is {number!r}.")
    from IPython.display import display

    display({HEADLINE: plain, "text/plain": headline_text(plain)}, raw=True)


def headline_text(numbers: dict[str, float]) -> str:
    """Formats numbers for reading.

    A number has three digits, or all digits before the decimal point if these are more.

    Args:
        numbers: The numbers by name.

    Returns:
        One line of text.

    Example:
        >>> headline_text({"labels_only": 48.1, "pictures": 5000})
        'labels_only 48.1, pictures 5000'
    """
    return ", ".join(
        f"{name} {number:.0f}" if abs(number) >= 1000 else f"{name} {number:.3g}"
        for name, number in numbers.items()
    )


def run(notebooks: list[Notebook], options: RunOptions) -> Iterator[Progress | Outcome]:
    """Runs notebooks and reports their progress.

    A notebook that fails does not stop the others. Each notebook that ends is recorded in OUT/summary.json at
    once. Closing the generator stops all processes that still run, and their kernels.

    Args:
        notebooks: The notebooks to run.

        options: How to run them.

    Returns:
        An iterator over events. A ``Progress`` says how far a notebook has come, and an ``Outcome`` says
        that it has ended.

    Raises:
        InputError: If the output folder cannot be written or holds a damaged summary. This is checked before
            anything runs.
    """
    return _run(notebooks, options, read_summary(options.out))


def _run(
    notebooks: list[Notebook], options: RunOptions, records: dict[str, dict]
) -> Iterator[Progress | Outcome]:
    by_name = {notebook.stem: notebook for notebook in notebooks}
    waiting = []
    for notebook in notebooks:
        outcome = kept(notebook, options, records)
        if outcome:
            yield outcome
        else:
            waiting.append(notebook)
    with WorkerPool(options) as pool:
        for event in pool.work(waiting):
            if isinstance(event, Outcome):
                keep(by_name[event.notebook], event, options, records)
            yield event


def kept(notebook: Notebook, options: RunOptions, records: dict[str, dict]) -> Outcome | None:
    """Returns the outcome of an earlier run that did the same work, if it may stand for a new one.

    A page that is asked for and missing is written.

    Args:
        notebook: The notebook.

        options: How it would be run now.

        records: The records of the output folder, from ``read_summary``.

    Returns:
        The outcome, or None if the notebook has to be run.
    """
    record = records.get(notebook.stem, {})
    if not (options.resume and _still_good(notebook, record, options)):
        return None
    if options.html and not (options.out / f"{notebook.stem}.html").exists():
        from kdnb.headless.worker import render

        render(options.out / notebook.path.name, images=notebook.path.parent)
    return Outcome(notebook.stem, "kept", record["seconds"], record["headline"])


def keep(notebook: Notebook, outcome: Outcome, options: RunOptions, records: dict[str, dict]) -> None:
    """Records how a notebook ended, in OUT/summary.json and as a row of OUT/results.csv too.

    Args:
        notebook: The notebook.

        outcome: How it ended.

        options: How it was run.

        records: The records of the output folder. One is added or replaced.

    Raises:
        InputError: If the file cannot be written.
    """
    records[notebook.stem] = {
        "status": outcome.status,
        "seconds": outcome.seconds,
        "parameters": options.parameters,
        "source": notebook.source,
        "headline": outcome.headline,
        "failure": asdict(outcome.failure) if outcome.failure else None,
    }
    records_in_order = dict(sorted(records.items()))
    content = {"notebooks": records_in_order}
    write_whole(options.out / "summary.json", json.dumps(content, indent=1) + "\n")
    outcomes = [
        Outcome(name, record["status"], record["seconds"], record["headline"])
        for name, record in records_in_order.items()
    ]
    write_whole(options.out / "results.csv", results_text([], [({}, one) for one in outcomes]))


def read_summary(out: Path) -> dict[str, dict]:
    """Reads the records of earlier runs from OUT/summary.json. The folder is made if it does not exist.

    Args:
        out: The output folder.

    Returns:
        One record for each notebook, by the notebook's name. The dict is empty if there is no summary.

    Raises:
        InputError: If the folder cannot be written, or if the file is not a summary.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(
            f"The output folder {out} cannot be written: {error.strerror}. Choose another one with --out."
        ) from error
    path = out / "summary.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["notebooks"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a summary written by 'kdnb run'. Move it away or choose another folder "
            "with --out."
        ) from error


def _still_good(notebook: Notebook, record: dict, options: RunOptions) -> bool:
    """Returns whether an earlier run of the notebook did the same work.

    The parameters are read from the executed notebook. It may be newer than its record, if a run was stopped
    after it wrote the one and before it wrote the other.
    """
    try:
        text = (options.out / notebook.path.name).read_text(encoding="utf-8")
        executed = json.loads(text)["metadata"]["papermill"]
    except (OSError, ValueError, KeyError):
        return False
    recorded = record.get("status") == "ok" and record.get("source") == notebook.source
    return recorded and not executed["exception"] and executed["parameters"] == options.parameters
