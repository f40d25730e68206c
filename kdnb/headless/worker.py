"""The program that runs one notebook: ``python -m kdnb.headless.worker JOB``.

``kdnb.headless`` starts a process for each notebook, so that no notebook can disturb another one or the
command line. The program reports JSON lines on its standard output. It writes ``{"done": 3}`` when a cell
begins, and once, at the end, ``{"headline": {...}, "failure": null}``. The parent keeps the program's
standard input open. When the parent closes it, or dies, the program stops and shuts its kernel down.
"""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from traitlets import default
from traitlets.config import Config

from kdnb.files import FILES, new_folder, write_whole
from kdnb.headless import HEADLINE
from kdnb.headless.keep_alive import KeepAlive

_LONGEST_SOCKET_PATH = 100  # in bytes; macOS allows 104 and Linux 108


class ThisPython(AsyncKernelManager):
    """A manager of kernels that run in this very Python interpreter.

    It ignores any kernelspec called python3 that is installed in the user's home.

    Attributes:
        environment: Variables that the kernel's environment has beside those of this process.
    """

    environment: Mapping[str, str] = MappingProxyType({})

    @default("kernel_spec_manager")
    def _no_installed_kernelspecs(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    async def start_kernel(self, **options: object) -> None:
        """Starts the kernel.

        Args:
            options: As ``AsyncKernelManager.start_kernel`` takes them.
        """
        await super().start_kernel(env={**os.environ, **self.environment}, **options)


def kernel_config(folder: Path, *, posix: bool = os.name == "posix") -> Config:
    """Configures how a kernel and its client are connected.

    On POSIX systems they use Unix sockets in ``folder`` instead of TCP ports, because kernels that
    start at the same time may compete for a port. TCP remains where the path of a socket would be too long.

    Args:
        folder: The folder for the connection file and the sockets.

        posix: Whether the system is POSIX.

    Returns:
        The configuration of the kernel manager.
    """
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
    """Runs one notebook.

    During the run, ``out`` holds NAME.running.ipynb, which is saved after each cell. NAME.ipynb appears as a
    whole at the end, whether the run failed or not. The folder NAME_files holds what the notebook's code
    leaves: its figures as pictures, words and numbers, and its networks. There is none if it leaves nothing.

    Args:
        source: The notebook to run.

        out: The folder for the executed notebook.

        parameters: Values of its parameters by name.

        folder: The working folder of the notebook's code.

        report: Called with a message whenever a cell begins.

    Returns:
        The failure as a dict, or None.

    Raises:
        KeyboardInterrupt: If the process is told to stop.
    """
    import papermill

    running = out / f"{source.stem}.running.ipynb"
    code_cells = 0

    def begin(cell: nbformat.NotebookNode, cell_index: int) -> None:
        report({"done": cell_index})

    def count(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal code_cells
        code_cells += 1
        keep_alive.begin()

    failure = None
    with _files(out / f"{source.stem}_files") as files, kernel({FILES: str(files.resolve())}) as manager:
        keep_alive = KeepAlive(manager)
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
            )
        except KeyboardInterrupt:
            running.unlink(missing_ok=True)
            raise
        except Exception as error:
            failure = _failure(error, code_cells)
        finally:
            keep_alive.end()
    _finish(running, out / source.name, source)
    return failure


@contextmanager
def _files(path: Path) -> Iterator[Path]:
    """An empty folder for what the notebook leaves. It goes if nothing is left, and if the run is stopped."""
    folder = new_folder(path)
    try:
        yield folder
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def kernel(environment: Mapping[str, str] = MappingProxyType({})) -> Iterator[ThisPython]:
    """Provides a kernel manager whose kernel, once started, does not outlive the block.

    The kernel is asked to shut down at the end of the block, or is killed at once if the block is
    interrupted. nbclient alone would leave a kernel behind that is interrupted while it starts.

    Args:
        environment: Variables for the kernel's environment, beside those of this process.

    Yields:
        The manager.
    """
    with tempfile.TemporaryDirectory(prefix="kdnb-", ignore_cleanup_errors=True) as folder:
        manager = ThisPython(kernel_name="python3", config=kernel_config(Path(folder)))
        manager.environment = environment
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
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill treats its paths as format strings


def _failure(error: Exception, cell: int) -> dict:
    """Describes an error as a dict.

    Papermill's own errors carry those of the cell. Other errors, such as a dead kernel, are described
    themselves.
    """
    lines = "\n".join(getattr(error, "traceback", []))
    evalue = getattr(error, "evalue", str(error))
    if isinstance(error, DeadKernelError):
        evalue = f"{error}; a frequent cause is a lack of memory, so try --preset smoke or fewer --jobs"
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
    # Executed notebooks are made to be shared, so they hold names instead of full paths.
    notebook.metadata.papermill.update(input_path=source.name, output_path=finished.name)
    write_whole(finished, nbformat.writes(notebook) + "\n")
    running.unlink()


def headline_of(notebook: Path) -> dict[str, float]:
    """Collects the numbers that the cells of an executed notebook handed to ``kdnb.headless.headline``.

    Args:
        notebook: The executed notebook.

    Returns:
        The numbers by name.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    numbers: dict[str, float] = {}
    for cell in cells:
        for output in cell.get("outputs", []):
            numbers.update(output.get("data", {}).get(HEADLINE, {}))
    return numbers


def render(notebook: Path, images: Path) -> None:
    """Writes an executed notebook as one HTML file beside it.

    Args:
        notebook: The executed notebook.

        images: The folder in which the pictures that the text shows are looked up.

    Raises:
        InputError: If the file cannot be written.
    """
    from nbconvert import HTMLExporter

    resources = {"metadata": {"path": str(images), "name": notebook.stem}}
    executed = nbformat.read(notebook, as_version=4)
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(executed, resources=resources)
    write_whole(notebook.with_suffix(".html"), page)


def _private_stdout() -> Callable[[dict], None]:
    """Returns a reporter on standard output.

    The kernel inherits a copy of standard error in place of standard output, so that nothing that a
    notebook's libraries print can mix with the reports.
    """
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def report(message: dict) -> None:
        lines.write(json.dumps(message) + "\n")
        lines.flush()

    return report


def _stop_with_parent() -> None:
    os.read(0, 1)  # returns once the other end is closed
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Runs the job on the command line, JSON with the keys source, out, folder, parameters and html."""
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
