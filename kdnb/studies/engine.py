"""Carries the runs of a study out on workers, and lets the study go on where it was."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from kdnb.errors import InputError
from kdnb.files import write_whole
from kdnb.runs import Spec, run
from kdnb.studies.cluster import facts, require_alike, sees_folder
from kdnb.studies.loaded import LoadedData
from kdnb.studies.plan import Study
from kdnb.studies.progress import Failed, Finished, Progress
from kdnb.tasks import cancelled

if TYPE_CHECKING:
    from distributed import Client, Future

RECORD = "run.json"  # written last: where it is, a run is whole


@dataclass(frozen=True)
class Ended:
    """A run that has just ended.

    Attributes:
        spec: The run.

        outcome: What became of it.

        ended: How many runs have ended since the study was started or went on.

        waiting: How many runs are under way or could be; more follow when a search is finished.
    """

    spec: Spec
    outcome: Finished | Failed
    ended: int
    waiting: int


@dataclass(frozen=True)
class Task:
    """What a worker is asked to do.

    Attributes:
        spec: The run.

        evaluate_every: Epochs from one evaluation to the next.

        data_root: Where the worker finds data that were downloaded or unpacked; None is the course's folder.

        memory: Bytes that decoded pictures may fill in the worker; None is half of what is free there.

        wanted: The versions that the worker must have.
    """

    spec: Spec
    evaluate_every: int
    data_root: Path | None
    memory: int | None
    wanted: Mapping[str, str]


def run_study(
    study: Study, out: Path, client: Client, *, data_root: Path | None = None, memory: int | None = None
) -> Iterator[Ended]:
    """Trains what the study still lacks, every run as soon as what it needs is there.

    A run that fails is kept as failed, and the others go on. Those that failed in an earlier sitting are
    tried again, unless their loss or weights were not finite. Closing the generator cancels what is under
    way: a worker sees that after an epoch, and the run keeps it.

    Args:
        study: The study.

        out: The folder of the runs.

        client: Of the workers. They share the folder, or send the files of every run back.

        data_root: As in ``Task``.

        memory: As in ``Task``.

    Yields:
        Every run that ends.

    Raises:
        InputError: If the folder cannot be written, or holds what cannot be used, and if the scheduler is
            gone.
    """
    from distributed import as_completed

    out = Path(out).resolve()
    progress, shared = Progress(study, out), sees_folder(client, out)
    progress.forget_failures()
    futures = as_completed(raise_errors=False)
    sitting = uuid.uuid4().hex  # the scheduler may know a run of the same name from another sitting
    under_way: dict[str, Spec] = {}

    def submit() -> None:
        for spec in progress.ready().values():
            if (key := f"{spec.name}-{sitting}") not in under_way:
                under_way[key] = spec
                task = Task(spec, study.evaluate_every, data_root, memory, facts())
                futures.add(_submitted(client, task, key, out, shared))

    submit()
    ended = 0
    try:
        for future in futures:
            spec = under_way.pop(future.key)
            _keep(future, spec, progress)
            submit()
            ended += 1
            yield Ended(spec, progress.outcome(spec), ended, len(under_way))
    finally:
        client.cancel(list(futures.futures), force=True)


def _submitted(client: Client, task: Task, key: str, out: Path, shared: bool) -> Future:
    """The run of ``task``, given to the workers."""
    if shared:
        return client.submit(_train, out, task, key=key, pure=False)
    teacher = out / (task.spec.teacher or "")
    taught = _files(teacher) if teacher.parent == out and teacher.is_dir() else {}
    return client.submit(_train_apart, taught, task, key=key, pure=False)


def _train(out: Path, task: Task) -> None:
    """Runs in a worker that sees the folder of the runs.

    A worker that was cancelled, or lost its scheduler, may still be at this run: it has the lock until its
    epoch ends.
    """
    require_alike({"the study": task.wanted})
    data = _loaded(task).of(task.spec)
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / f".{task.spec.name}.lock", poll_interval=0.5):
        run(
            task.spec,
            out=out,
            resume=True,
            data=data,
            evaluate_every=task.evaluate_every,
            report=_stop_if_cancelled,
        )


def _stop_if_cancelled(_row: Mapping[str, float]) -> None:
    """Called when an epoch is on disk."""
    if cancelled():
        raise CancelledError("Nobody waits for this run any longer.")


def _loaded(task: Task) -> LoadedData:
    """The data that this worker has loaded; Dask's worker holds them as long as it lives."""
    from distributed import get_worker

    worker = get_worker()
    if not hasattr(worker, "kdnb_data"):
        worker.kdnb_data = LoadedData(task.data_root, task.memory)
    return worker.kdnb_data


def _train_apart(taught: Mapping[str, bytes], task: Task) -> dict[str, bytes]:
    """Runs in a worker without that folder: gets the teacher's files, returns those of the run."""
    with tempfile.TemporaryDirectory(prefix="kdnb-study-") as folder:
        for name, content in taught.items():
            write_whole(Path(folder) / task.spec.teacher / name, content)
        _train(Path(folder), task)
        return _files(Path(folder) / task.spec.name)


def _files(folder: Path) -> dict[str, bytes]:
    """What a finished run leaves: everything in its folder but the state to go on from."""
    kept = (path for path in sorted(folder.glob("*")) if not path.name.startswith("state"))
    return {path.name: path.read_bytes() for path in kept if path.is_file()}


def _keep(future: Future, spec: Spec, progress: Progress) -> None:
    """Writes down what came of a run: the files that a worker sent, or that it failed."""
    if future.status == "finished":
        files = future.result() or {}
        for name in sorted(files, key=RECORD.__eq__):  # the record last
            write_whole(progress.out / spec.name / name, files[name])
        if progress.outcome(spec) is None:
            words = f"The worker finished, but there is no {RECORD} in the run's folder."
            progress.note_failure(spec, "MissingRecord", words)
        return
    if future.status != "error":
        raise InputError(
            "The scheduler is gone, or somebody has cancelled the runs there. What is finished is kept; the "
            "same command goes on from there."
        )
    error = future.exception()
    progress.note_failure(spec, type(error).__name__, str(error))
