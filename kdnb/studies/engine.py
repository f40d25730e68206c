"""Carries the runs of a study out on workers, and lets the study go on where it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdnb.files import write_whole
from kdnb.runs import Spec, run
from kdnb.studies.cluster import facts, require_alike, sees_folder
from kdnb.studies.loaded import LoadedData
from kdnb.studies.plan import Study
from kdnb.studies.progress import Failed, Finished, Progress

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


def run_study(study: Study, out: Path, client: Client, *, data_root: Path | None = None) -> Iterator[Ended]:
    """Trains what the study still lacks, every run as soon as what it needs is there.

    A run that fails is kept as failed, and the others go on. Those that failed in an earlier sitting are
    tried again, unless their loss or weights were not finite. Closing the generator stops the workers' runs;
    each keeps its last finished epoch.

    Args:
        study: The study.

        out: The folder of the runs.

        client: Of the workers. They share the folder, or send the files of every run back.

        data_root: Where workers find data that were downloaded or unpacked; None is the course's folder.

    Yields:
        Every run that ends.

    Raises:
        InputError: If the folder cannot be written, or holds what cannot be used.
    """
    from distributed import as_completed

    progress, shared = Progress(study, out), sees_folder(client, out)
    progress.forget_failures()
    futures = as_completed(raise_errors=False)
    under_way: dict[str, Spec] = {}

    def submit() -> None:
        for name, spec in progress.ready().items():
            if name not in under_way:
                under_way[name] = spec
                futures.add(_submitted(client, spec, study, Path(out).resolve(), shared, data_root))

    submit()
    ended = 0
    try:
        for future in futures:
            spec = under_way.pop(future.key)
            if future.status == "cancelled":  # the end of a sitting that was stopped a moment ago
                submit()
                continue
            _keep(future, spec, progress)
            submit()
            ended += 1
            yield Ended(spec, progress.outcome(spec), ended, len(under_way))
    finally:
        client.cancel(list(futures.futures), force=True)


def _submitted(
    client: Client, spec: Spec, study: Study, out: Path, shared: bool, data_root: Path | None
) -> Future:
    """The run of ``spec``, given to the workers."""
    about = (spec, study.evaluate_every, data_root, facts())
    if shared:
        return client.submit(_train, out, *about, key=spec.name, pure=False)
    taught = {} if spec.teacher is None else _files(out / spec.teacher)
    return client.submit(_train_apart, taught, *about, key=spec.name, pure=False)


def _train(out: Path, spec: Spec, every: int, data_root: Path | None, wanted: Mapping[str, str]) -> None:
    """Runs in a worker that sees the folder of the runs."""
    require_alike({"the study": wanted})
    data = _loaded(data_root).of(spec)
    run(spec, out=out, resume=True, data=data, evaluate_every=every)


def _loaded(data_root: Path | None) -> LoadedData:
    """The data that this worker has loaded; Dask's worker holds them as long as it lives."""
    from distributed import get_worker

    worker = get_worker()
    if not hasattr(worker, "kdnb_data"):
        worker.kdnb_data = LoadedData(data_root)
    return worker.kdnb_data


def _train_apart(
    taught: Mapping[str, bytes], spec: Spec, every: int, data_root: Path | None, wanted: Mapping[str, str]
) -> dict[str, bytes]:
    """Runs in a worker without that folder: gets the teacher's files, returns those of the run."""
    with tempfile.TemporaryDirectory(prefix="kdnb-study-") as folder:
        for name, content in taught.items():
            write_whole(Path(folder) / spec.teacher / name, content)
        _train(Path(folder), spec, every, data_root, wanted)
        return _files(Path(folder) / spec.name)


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
    error = future.exception()
    progress.note_failure(spec, type(error).__name__, str(error))
