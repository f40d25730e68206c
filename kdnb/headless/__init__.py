"""Runs notebooks without a browser: each in a process of its own, several at a time if wished.

``notebooks`` reads what the course holds, ``team`` starts the processes, ``worker`` is what runs in
one. ``headline`` is the other end: a notebook's last cell hands its main numbers to the runner.
"""

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from kdnb.errors import InputError
from kdnb.files import write_whole
from kdnb.headless.notebooks import Notebook
from kdnb.headless.team import Failure, Order, Outcome, Progress, Team, cores

__all__ = [
    "HEADLINE",
    "Failure",
    "Order",
    "Outcome",
    "Progress",
    "cores",
    "headline",
    "headline_text",
    "read_summary",
    "run",
]

HEADLINE = "application/vnd.kdnb.headline+json"


def headline(**numbers: float) -> None:
    """Shows a notebook's main numbers, and hands them to the table that ``kdnb run`` prints:
    ``headline(labels_only=48.1, kd=55.2)`` shows ``labels_only 48.1, kd 55.2``.

    Raises ValueError if a value is not a finite number.
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
    """``labels_only 48.1, kd 55.2``: three digits, all of them before the point if there are more."""
    return ", ".join(
        f"{name} {number:.0f}" if abs(number) >= 1000 else f"{name} {number:.3g}"
        for name, number in numbers.items()
    )


def run(notebooks: list[Notebook], order: Order) -> Iterator[Progress | Outcome]:
    """Runs ``notebooks``, ``order.jobs`` at a time, and tells how they get on.

    One that fails does not stop the others. Each that is through is recorded at once in
    OUT/summary.json. Closing the generator stops what runs, kernels included.

    Raises InputError, before anything runs, if the folder cannot be written.
    """
    return _run(notebooks, order, read_summary(order.out))


def _run(notebooks: list[Notebook], order: Order, records: dict[str, dict]) -> Iterator[Progress | Outcome]:
    hashes = {notebook.stem: notebook.source for notebook in notebooks}
    waiting = []
    for notebook in notebooks:
        record = records.get(notebook.stem, {})
        if order.resume and _still_good(notebook, record, order):
            yield _kept(notebook, record, order)
        else:
            waiting.append(notebook)
    with Team(order) as team:
        for event in team.work(waiting):
            if isinstance(event, Outcome):
                records[event.notebook] = {
                    "status": event.status,
                    "seconds": event.seconds,
                    "parameters": order.parameters,
                    "source": hashes[event.notebook],
                    "headline": event.headline,
                    "failure": asdict(event.failure) if event.failure else None,
                }
                _write_summary(order.out, records)
            yield event


def read_summary(out: Path) -> dict[str, dict]:
    """The records in OUT/summary.json by notebook; makes the folder if need be.

    Raises InputError if the folder cannot be written or the file is not a summary.
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


def _write_summary(out: Path, records: dict[str, dict]) -> None:
    content = {"notebooks": dict(sorted(records.items()))}
    write_whole(out / "summary.json", json.dumps(content, indent=1) + "\n")


def _still_good(notebook: Notebook, record: dict, order: Order) -> bool:
    """Whether an earlier run did the same. The parameters are those in the executed notebook: it
    may be newer than its record, where a run was stopped between the two."""
    try:
        text = (order.out / notebook.path.name).read_text(encoding="utf-8")
        executed = json.loads(text)["metadata"]["papermill"]
    except (OSError, ValueError, KeyError):
        return False
    recorded = record.get("status") == "ok" and record.get("source") == notebook.source
    return recorded and not executed["exception"] and executed["parameters"] == order.parameters


def _kept(notebook: Notebook, record: dict, order: Order) -> Outcome:
    if order.html and not (order.out / f"{notebook.stem}.html").exists():
        from kdnb.headless.worker import render

        render(order.out / notebook.path.name, images=notebook.path.parent)
    return Outcome(notebook.stem, "kept", record["seconds"], record["headline"])
