"""``kdnb run --grid``: notebooks executed once for every combination of values, on Dask workers."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from kdnb.commands.workers import connected
from kdnb.errors import InputError
from kdnb.files import new_folder, write_whole
from kdnb.headless import Failure, Outcome, RunOptions, headline_text, keep, kept, read_summary
from kdnb.headless.display import failure_text, table
from kdnb.headless.grids import folder_name, results_text
from kdnb.headless.notebooks import Notebook
from kdnb.headless.worker_pool import WorkerPool
from kdnb.tasks import cancelled

# Dask workers import this module, to find ``execute`` in it. They need not have torch in their memory.
if TYPE_CHECKING:
    from distributed import Client, Future


@dataclass(frozen=True)
class Workers:
    """On what the executions run.

    Attributes:
        cluster: The address of a Dask scheduler; None is this machine.

        number: How many workers of this machine; None is one a core, or ``per_gpu`` a GPU.

        threads: The threads of each; None shares the cores out.

        per_gpu: Workers for each GPU.
    """

    cluster: str | None = None
    number: int | None = None
    threads: int | None = None
    per_gpu: int = 1


def require_fitting(workers: Workers, jobs: int, *, grid: bool) -> None:
    """Checks that a run asks for workers in the way that is meant for it.

    Args:
        workers: What the options of the cluster say.

        jobs: What --jobs says.

        grid: Whether there is a --grid.

    Raises:
        InputError: If an option would have no effect.
    """
    if grid and jobs > 1:
        raise InputError(
            "--jobs is for runs without --grid. With --grid, --workers says how many run at a time."
        )
    if not grid and workers != Workers():
        raise InputError(
            "--cluster, --workers, --threads and --per-gpu are for runs with --grid. Without it, --jobs says "
            "how many notebooks run at a time on this machine."
        )
    if workers.cluster and workers != Workers(workers.cluster):
        raise InputError(
            "--workers, --threads and --per-gpu are for workers of this machine. Those of a --cluster are "
            "counted and set up where they are started."
        )


@dataclass(frozen=True)
class Execution:
    """One notebook with one combination of values.

    Attributes:
        notebook: The notebook.

        values: The values of the grid's parameters.

        options: All parameters, and the combination's own output folder.
    """

    notebook: Notebook
    values: dict[str, object]
    options: RunOptions

    @property
    def name(self) -> str:
        """The combination's folder and the notebook, such as ``seed=1/03_srrl``."""
        return f"{self.options.out.name}/{self.notebook.stem}"


def run_grid(
    notebooks: list[Notebook], combinations: list[dict[str, object]], options: RunOptions, workers: Workers
) -> bool:
    """Executes every notebook with every combination, and shows and writes down how each ended.

    On Ctrl-C it prints the command that continues, and exits with 130.

    Args:
        notebooks: The notebooks.

        combinations: The values of the grid's parameters.

        options: How to run the notebooks. The parameters are those beside the grid's, and the folder ``out``
            gets a folder for every combination, and results.csv.

        workers: On what they run.

    Returns:
        Whether all executions were well.

    Raises:
        InputError: If the output folder or the workers cannot be used.
    """
    executions = _executions(notebooks, combinations, options)
    outcomes: dict[str, Outcome] = {}
    try:
        with closing(_outcomes(executions, workers)) as events:
            for execution, outcome in events:
                outcomes[execution.name] = outcome
                _write_results(options.out, executions, outcomes)
                click.echo(f"[{len(outcomes)} of {len(executions)}]  {_line(execution, outcome)}", err=True)
    except KeyboardInterrupt:
        command = [*sys.argv[1:], *([] if options.resume else ["--resume"])]
        click.echo(
            f"Stopped: {len(outcomes)} of {len(executions)} executions are done and kept in "
            f"{options.out}. Go on with: kdnb {shlex.join(command)}",
            err=True,
        )
        sys.exit(130)
    named = [replace(outcomes[execution.name], notebook=execution.name) for execution in executions]
    failed = [outcome for outcome in named if outcome.failure]
    for outcome in failed:
        click.echo(f"\n{failure_text(outcome)}\n", err=True)
    click.echo(table(named))
    click.echo(f"Written to {options.out / 'results.csv'}", err=True)
    return not failed


def _executions(
    notebooks: list[Notebook], combinations: list[dict[str, object]], options: RunOptions
) -> list[Execution]:
    """Every notebook with every combination, each combination with an output folder of its own."""
    found = []
    for values in combinations:
        out = options.out / folder_name(values)
        own = replace(options, parameters=options.parameters | values, out=out)
        found += [Execution(notebook, values, own) for notebook in notebooks]
    return found


def _line(execution: Execution, outcome: Outcome) -> str:
    last = outcome.failure.ename if outcome.failure else headline_text(outcome.headline)
    words = f"{outcome.status}, {tqdm.format_interval(outcome.seconds)}"
    return f"{execution.name}: {words}  {last}".rstrip()


def _write_results(out: Path, executions: list[Execution], outcomes: Mapping[str, Outcome]) -> None:
    rows = [(one.values, outcomes[one.name]) for one in executions if one.name in outcomes]
    write_whole(out / "results.csv", results_text(list(executions[0].values), rows))


def _outcomes(executions: list[Execution], workers: Workers) -> Iterator[tuple[Execution, Outcome]]:
    """Yields those that an earlier run has finished, then the others as they end on the workers."""
    records = {one.options.out: read_summary(one.options.out) for one in executions}
    click.echo(f"{len(records)} combinations, {len(executions)} executions", err=True)
    waiting = []
    for execution in executions:
        outcome = kept(execution.notebook, execution.options, records[execution.options.out])
        if outcome:
            yield execution, outcome
        else:
            waiting.append(execution)
    if not waiting:
        return
    from kdnb.studies.cluster import facts, worker_environments

    environments = worker_environments(workers.number, workers.threads, workers.per_gpu)
    with connected(workers.cluster, environments[: len(waiting)]) as client:
        wanted = facts() if workers.cluster else None
        with closing(_ended(waiting, client, wanted)) as ended:
            for execution, future in ended:
                outcome, executed, files = _result(future, execution)
                if executed is not None:
                    _write_notebook(execution, executed, files)
                keep(execution.notebook, outcome, execution.options, records[execution.options.out])
                yield execution, outcome


def _ended(
    executions: list[Execution], client: Client, wanted: Mapping[str, str] | None
) -> Iterator[tuple[Execution, Future]]:
    """Gives all executions to the workers, and yields each when it has ended.

    Closing the generator cancels those that have not: a worker sees that and stops its kernel.
    """
    from distributed import as_completed

    sitting = uuid.uuid4().hex  # a cluster may know a task of the same name from another sitting
    sources = {one.notebook.path: _without_outputs(one.notebook.path) for one in executions}
    under_way = {f"{one.name}-{sitting}": one for one in executions}
    futures = [
        client.submit(
            execute,
            replace(one.notebook, path=Path(one.notebook.path.name)),
            sources[one.notebook.path],
            one.options.parameters,
            Path.cwd(),
            wanted,
            key=key,
            pure=False,
        )
        for key, one in under_way.items()
    ]
    ending = as_completed(futures, raise_errors=False)
    futures.clear()  # a result that is written down is not held any longer
    try:
        for future in ending:
            yield under_way.pop(future.key), future
    finally:
        client.cancel(list(ending.futures), force=True)


def _without_outputs(path: Path) -> str:
    """The text of a notebook as it is sent to workers. Its old outputs would be cleared there anyway."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return json.dumps(notebook)


def execute(
    notebook: Notebook,
    text: str,
    parameters: dict[str, object],
    folder: Path,
    wanted: Mapping[str, str] | None,
) -> tuple[Outcome, str | None, dict[str, bytes]] | None:
    """Executes a notebook in a Dask worker, by the same program as ``kdnb run`` without a grid.

    Neither the output folder nor the notebook's own file need be seen by the worker. A worker that is killed
    takes the program and its kernel with it. So does a task that is cancelled.

    Args:
        notebook: The notebook; of its path only the name counts.

        text: The content of its file.

        parameters: The values of its parameters by name.

        folder: The working folder of its code. A worker that has no such folder takes an empty one.

        wanted: The versions that the worker must have; None if it is a process of the same machine.

    Returns:
        The outcome, the content of the executed notebook, if there is one, and the files that its code left,
        by name. None if the task was cancelled.

    Raises:
        InputError: If the worker has other versions.
    """
    if wanted is not None:
        from kdnb.studies.cluster import require_alike

        require_alike({"the one who gives the work": wanted})
    with tempfile.TemporaryDirectory(prefix="kdnb-grid-", ignore_cleanup_errors=True) as place:
        source, out, own = (Path(place, name) for name in ("source", "out", "work"))
        out.mkdir()
        own.mkdir()
        write_whole(source / notebook.path.name, text)
        options = RunOptions(out, parameters, folder=folder if folder.is_dir() else own)
        with WorkerPool(options) as pool:
            for event in pool.work([replace(notebook, path=source / notebook.path.name)]):
                if isinstance(event, Outcome):
                    executed = out / notebook.path.name
                    files = {path.name: path.read_bytes() for path in out.glob("*_files/*")}
                    return event, executed.read_text(encoding="utf-8") if executed.exists() else None, files
                if cancelled():
                    return None
    raise AssertionError("a pool ends with an outcome")


def _result(future: Future, execution: Execution) -> tuple[Outcome, str | None, dict[str, bytes]]:
    """What came of an execution. A task that broke is a failure like that of a notebook."""
    if future.status == "finished":
        return future.result()
    if future.status != "error":  # nobody has cancelled it here
        raise InputError(
            "The scheduler of the cluster is gone, or somebody has cancelled the executions there. Those "
            "that ended are kept; the same command with --resume goes on from there."
        )
    error = future.exception()
    failure = Failure(0, type(error).__name__, str(error), "")
    return Outcome(execution.notebook.stem, "failed", 0.0, {}, failure), None, {}


def _write_notebook(execution: Execution, executed: str, files: dict[str, bytes]) -> None:
    """Writes an executed notebook into the folder of its combination, with the files that its code left, and
    its page if that is wanted."""
    options, notebook = execution.options, execution.notebook
    folder = new_folder(options.out / f"{notebook.stem}_files")
    for name, content in files.items():
        write_whole(folder / name, content)
    if not files:
        folder.rmdir()
    write_whole(options.out / notebook.path.name, executed)
    if options.html:
        from kdnb.headless.worker import render

        render(options.out / notebook.path.name, images=notebook.path.parent)
