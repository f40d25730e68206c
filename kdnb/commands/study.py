"""``kdnb study run | show | report``: arms that are tuned alike, then compared on fresh seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdnb.commands.workers import connected, worker_options

if TYPE_CHECKING:
    from kdnb.studies.cost import Cost
    from kdnb.studies.engine import Ended
    from kdnb.studies.plan import Study
    from kdnb.studies.progress import Progress

FILE = click.argument("file", type=click.Path(path_type=Path))
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the runs; runs/NAME of the file."
)
DATA_ROOT = click.option("--data-root", type=click.Path(path_type=Path), help="For downloads and archives.")


@click.group(short_help="Tune many arms alike and compare them.")
def study() -> None:
    """Tune every arm alike on validation pictures, then compare the arms on fresh seeds.

    A study is a TOML file. notebooks/README.md explains it.
    """


@study.command("run")
@FILE
@OUT
@DATA_ROOT
@click.option("--dry-run", is_flag=True, help="Check everything, print the number of runs and hours, stop.")
@click.option("--memory", metavar="SIZE", help="Of decoded pictures, a worker; a share of half that is free.")
@worker_options
def run_(
    file: Path,
    out: Path | None,
    data_root: Path | None,
    dry_run: bool,
    memory: str | None,
    cluster: str | None,
    workers: int | None,
    threads: int | None,
    per_gpu: int,
) -> None:
    """Check the whole study in FILE, then run what it still lacks.

    A study that was stopped goes on where it was. An arm or a seed that is added brings new runs only. When
    nothing is left, results.csv, report.md and a figure are written into the folder of the runs.
    """
    from kdnb.datasets import bytes_from_words
    from kdnb.studies.cluster import worker_environments
    from kdnb.studies.engine import run_study
    from kdnb.studies.plan import read_study
    from kdnb.studies.progress import Progress

    plan, out = read_study(file), _folder(file, out)
    environments = worker_environments(workers, threads, per_gpu)
    budget = bytes_from_words(memory) if memory else _share_of_memory(cluster, len(environments))
    costs = _costs(plan, data_root, threads=int(environments[0]["OMP_NUM_THREADS"]))
    click.echo(_announcement(plan, costs, "?" if cluster else len(environments)), err=True)
    if dry_run:
        return
    with connected(cluster, environments) as client:
        _run_and_show(file, run_study(plan, out, client, data_root=data_root, memory=budget), out)
    progress = Progress(plan, out)
    _write(progress, costs, out)
    if any(_unfinished(progress)):
        raise SystemExit(1)


@study.command()
@FILE
@OUT
def show(file: Path, out: Path | None) -> None:
    """Show how far the study in FILE has come."""
    from kdnb.studies.plan import read_study
    from kdnb.studies.progress import Progress

    progress = Progress(read_study(file), _folder(file, out))
    click.echo(_standing(progress))


@study.command()
@FILE
@OUT
@DATA_ROOT
@click.option("--to", type=click.Path(path_type=Path), help="Where the report is written; the runs' folder.")
def report(file: Path, out: Path | None, data_root: Path | None, to: Path | None) -> None:
    """Write results.csv, report.md and a figure of the study in FILE, also while it is unfinished."""
    from kdnb.studies.plan import read_study
    from kdnb.studies.progress import Progress

    plan, out = read_study(file), _folder(file, out)
    _write(Progress(plan, out), _costs(plan, data_root, timed=False), to or out)


def _folder(file: Path, out: Path | None) -> Path:
    return out or Path("runs") / file.stem


def _share_of_memory(cluster: str | None, workers: int) -> int | None:
    """Bytes that each worker of this machine may fill; None leaves it to those of a cluster."""
    from kdnb.datasets.memory import default_budget

    return None if cluster else default_budget() // workers


def _costs(plan: Study, data_root: Path | None, *, threads: int = 1, timed: bool = True) -> dict[str, Cost]:
    from kdnb.studies.cost import costs

    click.echo(f"Building {len(plan.arms)} arms{' and timing their steps' if timed else ''} ...", err=True)
    return costs(plan, data_root=data_root, threads=threads, timed=timed)


def _announcement(plan: Study, costs: dict[str, Cost], workers: int | str) -> str:
    """How many runs and hours the study takes, arm by arm."""
    lines, total = [f"{plan.title}: at most {plan.most_runs} runs"], 0.0
    width = max(map(len, plan.arms))
    for name, arm in plan.arms.items():
        searched = len(arm.trials) * len(plan.search_seeds) if len(arm.trials) > 1 else 0
        total += (searched * plan.search_share + len(plan.seeds)) * costs[name].seconds
        lines.append(
            f"  {name:{width}}  {searched:3} in the search + {len(plan.seeds)} reported, about "
            f"{_time(costs[name].seconds)} each, {costs[name].macs / 1e12:.2f} T multiplications"
        )
    together = total / workers if isinstance(workers, int) else math.nan
    lines.append(
        f"About {_time(total)} of work with a worker of this machine"
        + ("." if math.isnan(together) else f", about {_time(together)} with {workers} workers.")
    )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _run_and_show(file: Path, runs: Iterator[Ended], out: Path) -> None:
    """Prints a line for every run that ends. On Ctrl-C it says how to go on."""
    try:
        with closing(runs) as events:
            for event in events:
                click.echo(_line(event), err=True)
    except KeyboardInterrupt:
        click.echo(
            f"Stopped. Finished runs and the last epoch of the others are kept in {out}; 'kdnb study run "
            f"{file}' with the same options goes on from there.",
            err=True,
        )
        raise


def _line(event: Ended) -> str:
    from kdnb.studies.progress import Failed

    place = f"[{event.ended} ended, {event.waiting} to go]  {event.spec.name}"
    if isinstance(event.outcome, Failed):
        return f"{place}  FAILED: {event.outcome.kind}: {event.outcome.message}"
    scores = "  ".join(f"{name} {score:.1f} %" for name, score in event.outcome.validation.items())
    return f"{place}  validation {scores}  ({_time(event.outcome.record.seconds)})"


def _standing(progress: Progress) -> str:
    """A line for every arm: what is finished, failed and missing, and what it chose."""
    from kdnb.studies.progress import Failed, Finished
    from kdnb.studies.results import setting_words

    lines = []
    width = max(map(len, progress.study.arms))
    for name, arm in progress.study.arms.items():
        words = []
        for phase, runs in (
            ("search", [spec for _, _, spec in progress.searched(arm)]),
            ("report", [spec for _, spec in progress.reported(arm)]),
        ):
            outcomes = [spec and progress.outcome(spec) for spec in runs]
            done = sum(isinstance(outcome, Finished) for outcome in outcomes)
            failed = sum(isinstance(outcome, Failed) for outcome in outcomes)
            if runs:
                words.append(f"{phase} {done} of {len(runs)}" + (f", {failed} failed" if failed else ""))
        choice = progress.choice(arm)
        chosen = "" if not choice else f"  chose {setting_words(choice)}"
        lines.append(f"{name:{width}}  {'; '.join(words)}{chosen}")
    return "\n".join(lines)


def _unfinished(progress: Progress) -> Iterator[list[int]]:
    """For every arm the reported seeds that have no finished run."""
    from kdnb.studies.progress import Finished

    for arm in progress.study.arms.values():
        runs = progress.reported(arm)
        yield [s for s, spec in runs if spec is None or not isinstance(progress.outcome(spec), Finished)]


def _write(progress: Progress, costs: dict[str, Cost], folder: Path) -> None:
    from kdnb.studies.report import write_report

    write_report(progress, costs, folder)
    text = (folder / "report.md").read_text(encoding="utf-8")
    click.echo(text)
    click.echo(f"Written to {folder}: results.csv, report.md", err=True)
