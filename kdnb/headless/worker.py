"""The process that runs one notebook: ``python -m kdnb.headless.worker JOB``.

``kdnb.headless`` starts it, one process a notebook, so that no notebook can touch another one or
the command line. It reports JSON lines on its standard output: ``{"done": 3}`` as a cell begins,
and once, at the end, ``{"headline": {...}, "failure": null}``. Its standard input is a life line:
when the parent closes it, or dies, the worker stops and takes its kernel along.
"""

import json
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from traitlets import default
from traitlets.config import Config

from kdnb.files import write_whole
from kdnb.headless import HEADLINE
from kdnb.headless.nudge import Nudge

_LONGEST_SOCKET_PATH = 100  # macOS allows 104 bytes, Linux 108


class ThisPython(AsyncKernelManager):
    """Kernels of the running interpreter, whatever kernelspec is called python3 in the home."""

    @default("kernel_spec_manager")
    def _no_installed_kernelspecs(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def kernel_config(folder: Path, *, posix: bool = os.name == "posix") -> Config:
    """Connection files in ``folder``, and Unix sockets there instead of TCP ports, for which
    kernels that start together race. TCP remains where a socket's path would be too long."""
    config = Config()
    config.KernelManager.connection_file = str(folder / "kernel.json")
    longest = os.path.realpath(folder / "kernel-ipc-99")
    if posix and len(os.fsencode(longest)) <= _LONGEST_SOCKET_PATH:
        config.KernelManager.transport = "ipc"
    return config


def execute(
    source: Path,
    out: Path,
    parameters: dict[str, object],
    *,
    folder: Path,
    report: Callable[[dict], None],
) -> dict | None:
    """Runs ``source`` in ``folder``, into ``out``; its failure as a dict, or None.

    While it runs, ``out`` holds NAME.running.ipynb, saved after each cell; NAME.ipynb appears
    whole, at the end, whether the run failed or not. Raises KeyboardInterrupt if told to stop.
    """
    import papermill

    running = out / f"{source.stem}.running.ipynb"
    code_cells = 0

    def begin(cell: nbformat.NotebookNode, cell_index: int) -> None:
        report({"done": cell_index})

    def count(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal code_cells
        code_cells += 1
        nudge.begin()

    failure = None
    with kernel() as manager:
        nudge = Nudge(manager)
        try:
            papermill.execute_notebook(
                _literal(source),
                _literal(running),
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                start_timeout=300,
                cwd=folder,
                km=manager,
                on_cell_start=begin,
                on_cell_execute=count,
                on_cell_executed=nudge.end,
            )
        except KeyboardInterrupt:
            running.unlink(missing_ok=True)
            raise
        except Exception as error:
            failure = _failure(error, code_cells)
    _finish(running, out / source.name, source)
    return failure


@contextmanager
def kernel() -> Iterator[ThisPython]:
    """A manager whose kernel, once started, is gone when the block ends: asked to leave, or, if
    the block is interrupted, killed at once. (nbclient leaves a kernel behind that is interrupted
    while it starts.)"""
    with tempfile.TemporaryDirectory(prefix="kdnb-", ignore_cleanup_errors=True) as folder:
        manager = ThisPython(kernel_name="python3", config=kernel_config(Path(folder)))
        at_once = False
        try:
            yield manager
        except KeyboardInterrupt:
            at_once = True
            raise
        finally:
            if manager.has_kernel:
                run_sync(manager.shutdown_kernel)(now=at_once)


def _literal(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill formats its paths


def _failure(error: Exception, cell: int) -> dict:
    """Papermill's own errors carry the cell's; others, such as a dead kernel, speak for themselves."""
    lines = "\n".join(getattr(error, "traceback", []))
    evalue = getattr(error, "evalue", str(error))
    if isinstance(error, DeadKernelError):
        evalue = f"{error}; often memory ran out: try --preset smoke, or fewer --jobs"
    return {
        "cell": cell,
        "ename": getattr(error, "ename", type(error).__name__),
        "evalue": _plain(evalue),
        "traceback": _plain(lines),
    }


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def _finish(running: Path, finished: Path, source: Path) -> None:
    notebook = nbformat.read(running, as_version=nbformat.NO_CONVERT)
    # names instead of full paths: executed notebooks are made to be shared
    notebook.metadata.papermill.update(input_path=source.name, output_path=finished.name)
    write_whole(finished, nbformat.writes(notebook) + "\n")
    running.unlink()


def headline_of(notebook: Path) -> dict[str, float]:
    """The numbers that an executed notebook's cells handed to ``kdnb.headless.headline``."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    numbers: dict[str, float] = {}
    for cell in cells:
        for output in cell.get("outputs", []):
            numbers.update(output.get("data", {}).get(HEADLINE, {}))
    return numbers


def render(notebook: Path, images: Path) -> None:
    """Writes an executed notebook as one HTML file beside it; the pictures its text shows are
    looked up in the folder ``images``. Raises InputError if the file cannot be written."""
    from nbconvert import HTMLExporter

    resources = {"metadata": {"path": str(images), "name": notebook.stem}}
    executed = nbformat.read(notebook, as_version=4)
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(executed, resources=resources)
    write_whole(notebook.with_suffix(".html"), page)


def _private_stdout() -> Callable[[dict], None]:
    """A reporter on standard output. The kernel inherits a copy of standard error instead, so that
    nothing that a notebook's libraries print can mix with the reports."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def report(message: dict) -> None:
        lines.write(json.dumps(message) + "\n")
        lines.flush()

    return report


def _stop_with_parent() -> None:
    os.read(0, 1)  # returns when the other end is closed
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Runs the job given as JSON: source, out, folder, parameters, html."""
    job = json.loads(sys.argv[1])
    source, out = Path(job["source"]), Path(job["out"])
    report = _private_stdout()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        folder = Path(job["folder"])
        failure = execute(source, out, job["parameters"], folder=folder, report=report)
        if job["html"]:
            render(out / source.name, images=source.parent)
        report({"headline": headline_of(out / source.name), "failure": failure})
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
