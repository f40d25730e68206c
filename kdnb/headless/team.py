"""The processes that run notebooks: how many at a time, what they tell, how they are stopped."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kdnb.headless.notebooks import Notebook
from kdnb.paths import PROJECT


@dataclass(frozen=True)
class Progress:
    """``done`` of ``cells`` cells are behind this notebook; repeated every second."""

    notebook: str
    done: int
    cells: int


@dataclass(frozen=True)
class Failure:
    """Why a notebook stopped: the In [cell] it was at, 0 if unknown, and the error, without
    colour codes."""

    cell: int
    ename: str
    evalue: str
    traceback: str


@dataclass(frozen=True)
class Outcome:
    """A notebook that is through: ``ok``, ``failed``, or ``kept`` from an earlier run."""

    notebook: str
    status: str
    seconds: float
    headline: dict[str, float]
    failure: Failure | None = None


@dataclass(frozen=True)
class Order:
    """What to do with each notebook: parameters to set, the folder to fill, a page to render."""

    out: Path
    parameters: dict[str, object]
    html: bool = False
    jobs: int = 1
    resume: bool = False


def cores() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Team:
    """The processes at work. Leaving the ``with`` block stops those that still run."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.pool = ThreadPoolExecutor(order.jobs)
        self.events: queue.Queue[Progress | Outcome | BaseException] = queue.Queue()
        self.processes: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        self.closed = False

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.closed = True
            for process in self.processes:
                process.stdin.close()  # the life line: the worker stops and takes its kernel along
            stopping = list(self.processes)
        deadline = time.monotonic() + 20  # a worker needs one; a kernel alone leaves by itself
        for process in stopping:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        self.pool.shutdown(cancel_futures=True)

    def work(self, notebooks: list[Notebook]) -> Iterator[Progress | Outcome]:
        for notebook in notebooks:
            self.pool.submit(self._guarded, notebook)
        running: dict[str, Progress] = {}
        left = len(notebooks)
        while left:
            try:
                event = self.events.get(timeout=1)
            except queue.Empty:
                yield from running.values()  # lets a display show the time that passes
                continue
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, Outcome):
                running.pop(event.notebook, None)
                left -= 1
            else:
                running[event.notebook] = event
            yield event

    def _guarded(self, notebook: Notebook) -> None:
        try:
            self._follow(notebook)
        except BaseException as error:
            self.events.put(error)

    def _follow(self, notebook: Notebook) -> None:
        started = time.monotonic()
        cells = notebook.cells + bool(self.order.parameters)  # papermill adds one for them
        with tempfile.TemporaryFile() as log:
            process = self._start(notebook, log)
            if process is None:
                return
            self.events.put(Progress(notebook.stem, 0, cells))
            final = None
            with process:
                for line in process.stdout:
                    message = json.loads(line)
                    if "done" in message:
                        self.events.put(Progress(notebook.stem, message["done"], cells))
                    else:
                        final = message
            with self.lock:
                self.processes.discard(process)
            final = final or _crash(process.returncode, log)
        failure = Failure(**final["failure"]) if final["failure"] else None
        status = "failed" if failure else "ok"
        seconds = round(time.monotonic() - started, 1)
        self.events.put(Outcome(notebook.stem, status, seconds, final["headline"], failure))

    def _start(self, notebook: Notebook, log: BinaryIO) -> subprocess.Popen | None:
        job = {
            "source": str(notebook.path.resolve()),
            "out": str(self.order.out.resolve()),
            "folder": str(Path.cwd()),
            "parameters": self.order.parameters,
            "html": self.order.html,
        }
        environment = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        if self.order.jobs > 1:  # kernels that each take every core slow each other down
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.order.jobs)))
        with self.lock:
            if self.closed:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "kdnb.headless.worker", json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=PROJECT,  # not the user's folder: an html.py there would shadow Python's own
                start_new_session=True,  # Ctrl-C is ours alone: the workers are stopped once, by us
            )
            self.processes.add(process)
        return process


def _crash(code: int, log: BinaryIO) -> dict:
    log.seek(0)
    tail = log.read().decode(errors="replace").splitlines()[-30:]
    evalue = f"its process ended with code {code} before it was through; often memory ran out"
    failure = {"cell": 0, "ename": "Crash", "evalue": evalue, "traceback": "\n".join(tail)}
    return {"headline": {}, "failure": failure}
