"""What a study costs beside a shell loop of the same runs, and what it loses when its workers are killed."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from kdnb.runs import Spec, read
from kdnb.studies import Study, study_of
from kdnb.studies.cluster import local_workers, worker_environments
from kdnb.studies.engine import run_study

if TYPE_CHECKING:
    from distributed import Client

RATES = (0.05, 0.1)  # two arms


def study_runs(
    *, data: str = "shapes", labels: int = 500, epochs: int = 20, seeds: int = 6, kills: int = 20
) -> Iterator[dict[str, float | str]]:
    """Runs the same trainings of resnet8 one after the other, as a study, and as a study under fire.

    Args:
        data: What is learned, as ``datasets.load`` takes it.

        labels: Training images.

        epochs: Of every run.

        seeds: Runs of each of two arms.

        kills: Workers that are killed at random moments in the third row.

    Yields:
        Three rows. way: A shell loop of ``kdnb train`` with all cores for each run; a study with a worker a
        core; the same study while workers are killed. runs_an_hour. idle_%: of the cores' time, counted for
        the processes that did the work. overhead_s: seconds of a worker beyond the training itself, per run.
        killed. lost: runs without a record. other_bits: runs whose student differs from that of the row
        before, among the studies.
    """
    settings = {"data": data, "labels": labels, "epochs": epochs}
    arms = {f"rate {lr}": {"method": "labels-only", "lr": lr} for lr in RATES}
    content = {"baseline": "rate 0.05", "seeds": list(range(seeds)), "all": settings, "arms": arms}
    study = study_of(content | {"evaluate_every": epochs})
    specs = [arm.run({}, seed, None) for arm in study.arms.values() for seed in study.seeds]
    with tempfile.TemporaryDirectory(prefix="kdnb-bench-") as folder:
        shell, quiet, fire = (Path(folder) / name for name in ("shell", "study", "killed"))
        yield _measured("shell loop", lambda: _shell_loop(specs, shell), specs, shell, 1)
        workers = len(worker_environments(None, None, 1))
        yield _measured("study", lambda: _study(study, quiet, 0, []), specs, quiet, workers)
        killed: list[int] = []
        row = _measured("study, killed", lambda: _study(study, fire, kills, killed), specs, fire, workers)
        pairs = [[folder / spec.name / "student.safetensors" for folder in (quiet, fire)] for spec in specs]
        other = sum(own.read_bytes() != theirs.read_bytes() for own, theirs in pairs)
        yield row | {"killed": len(killed), "other_bits": other}


def _measured(
    way: str, work: Callable[[], None], specs: list[Spec], out: Path, workers: int
) -> dict[str, float | str]:
    before, start = _cpu_seconds(), perf_counter()
    work()
    wall, used = perf_counter() - start, _cpu_seconds() - before
    records = [read(out / spec.name) for spec in specs if (out / spec.name / "run.json").exists()]
    trained = sum(record.seconds for record in records)
    return {
        "way": way,
        "runs": len(records),
        "runs_an_hour": 3600 * len(records) / wall,
        "idle_%": 100 * (1 - used / (wall * (os.cpu_count() or 1))),
        "overhead_s": (wall * workers - trained) / len(specs),
        "killed": 0,
        "lost": len(specs) - len(records),
    }


def _cpu_seconds() -> float:
    """Of this process and of its children and theirs that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in (own, children))


def _shell_loop(specs: list[Spec], out: Path) -> None:
    for spec in specs:
        words = ["--data", spec.data, "--labels", spec.labels, "--epochs", spec.epochs, "--lr", spec.lr]
        words += ["--seed", spec.seed, "--evaluate-every", spec.epochs, "--out", out]
        command = [sys.executable, "-m", "kdnb.commands.cli", "train", spec.method, *map(str, words)]
        subprocess.run(command, check=True, capture_output=True)


def _study(study: Study, out: Path, kills: int, killed: list[int]) -> None:
    """The whole study, while busy workers are killed, a random moment after one another.

    The numbers of the killed processes are added to ``killed``.
    """
    with local_workers(worker_environments(None, None, 1)) as client:
        done = threading.Event()
        killer = threading.Thread(target=_kill, args=(client, kills, done, killed))
        killer.start()
        for _ in run_study(study, out, client):
            pass
        done.set()
        killer.join()


def _kill(client: Client, kills: int, done: threading.Event, killed: list[int]) -> None:
    moments = random.Random(0)
    while len(killed) < kills and not done.wait(moments.uniform(0.5, 4.0)):
        busy = [address for address, keys in client.processing().items() if keys]
        chosen = moments.sample(busy, min(1, len(busy)))
        for process in client.run(os.getpid, workers=chosen, on_error="ignore").values() if chosen else ():
            os.kill(process, signal.SIGKILL)
            killed.append(process)
