"""The processes that run notebooks.

This module decides how many run at a time, passes on what they report, and stops them.
"""

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
    """How far a running notebook has come. It is repeated every second.

    Attributes:
        notebook: Name of the notebook.

        done: How many cells have ended.

        cells: How many cells there are.
    """

    notebook: str
    done: int
    cells: int


@dataclass(frozen=True)
class Failure:
    """Why a notebook stopped.

    Attributes:
        cell: The number in the ``In [...]`` of the failing cell, or 0 if it is not known.

        ename: The name of the error's class.

        evalue: The message of the error.

        traceback: The traceback, without colour codes.
    """

    cell: int
    ename: str
    evalue: str
    traceback: str


@dataclass(frozen=True)
class Outcome:
    """How the run of a notebook ended.

    Attributes:
        notebook: Name of the notebook.

        status: ``ok``, ``failed``, or ``kept`` if an earlier run had done the same.

        seconds: How long it took.

        headline: The main numbers that the notebook handed to ``kdnb.headless.headline``.

        failure: Why it failed, or None.
    """

    notebook: str
    status: str
    seconds: float
    headline: dict[str, float]
    failure: Failure | None = None


@dataclass(frozen=True)
class RunOptions:
    """How to run notebooks.

    Attributes:
        out: The folder for executed notebooks and the summary.

        parameters: Parameter values by name, the same for every notebook.

        html: Whether to write each notebook as an HTML page too.

        jobs: How many notebooks run at a time.

        resume: Whether to skip notebooks that an earlier run finished with the same parameters.

        folder: The working folder of the notebooks' code; None is that of this process.
    """

    out: Path
    parameters: dict[str, object]
    html: bool = False
    jobs: int = 1
    resume: bool = False
    folder: Path | None = None


def cores() -> int:
    """Counts the processors that this process may use.

    Returns:
        Their number.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerPool:
    """A context manager for the processes that run notebooks.

    Leaving the ``with`` block stops the processes that still run.

    Args:
        options: How to run the notebooks.
    """

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.pool = ThreadPoolExecutor(options.jobs)
        self.events: queue.Queue[Progress | Outcome | BaseException] = queue.Queue()
        self.processes: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        self.closed = False

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.closed = True
            for process in self.processes:
                process.stdin.close()  # the signal on which a worker stops its kernel and itself
            stopping = list(self.processes)
        # A worker needs about one second. If it has to be killed, its kernel ends by itself.
        deadline = time.monotonic() + 20
        for process in stopping:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        self.pool.shutdown(cancel_futures=True)

    def work(self, notebooks: list[Notebook]) -> Iterator[Progress | Outcome]:
        """Runs notebooks and yields their events.

        Args:
            notebooks: The notebooks to run.

        Yields:
            A ``Progress`` when a notebook advances and once a second, and an ``Outcome`` when one ends.
        """
        for notebook in notebooks:
            self.pool.submit(self._guarded, notebook)
        running: dict[str, Progress] = {}
        left = len(notebooks)
        while left:
            try:
                event = self.events.get(timeout=1)
            except queue.Empty:
                yield from running.values()  # so that a display can show how time passes
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
        cells = notebook.cells + bool(self.options.parameters)  # papermill adds a cell for them
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
            "out": str(self.options.out.resolve()),
            "folder": str(self.options.folder or Path.cwd()),
            "parameters": self.options.parameters,
            "html": self.options.html,
        }
        environment = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        if self.options.jobs > 1:  # kernels that each use every core slow each other down
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.options.jobs)))
        with self.lock:
            if self.closed:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "kdnb.headless.worker", json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=PROJECT,  # in the user's folder a file html.py would shadow Python's own module
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the workers
            )
            self.processes.add(process)
        return process


def _crash(code: int, log: BinaryIO) -> dict:
    log.seek(0)
    tail = log.read().decode(errors="replace").splitlines()[-30:]
    evalue = (
        f"its process ended with code {code} before the notebook was finished; "
        "a frequent cause is a lack of memory"
    )
    failure = {"cell": 0, "ename": "Crash", "evalue": evalue, "traceback": "\n".join(tail)}
    return {"headline": {}, "failure": failure}
