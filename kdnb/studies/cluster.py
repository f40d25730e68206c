"""Workers for many runs: processes of this machine, or any Dask cluster. Each runs one thing at a time.

A local worker is started as a program of its own, so its environment is set before its Python starts: the
number of its threads, and the one GPU that it sees. Dask starts a worker again when it is killed, and gives
its task to another.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from kdnb import __version__
from kdnb.errors import InputError

PATIENCE = 60  # seconds to wait for a scheduler to answer and for the first worker
ALLOWED_DEATHS = 20  # how many workers may die under one run before it counts as failed


def worker_environments(workers: int | None, threads: int | None, per_gpu: int) -> list[dict[str, str]]:
    """What sets the workers of this machine apart from one another.

    Args:
        workers: How many; None is one a core without GPUs, or ``per_gpu`` for each GPU.

        threads: Threads of each; None shares the cores out evenly.

        per_gpu: Workers for each GPU.

    Returns:
        The environment variables of each worker.

    Raises:
        InputError: For numbers below 1.
    """
    for name, value in (("workers", workers), ("threads", threads), ("per_gpu", per_gpu)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, found {value}.")
    cores, gpus = len(_own_cores()), torch.cuda.device_count()
    count = workers or (gpus * per_gpu if gpus else max(1, cores // (threads or 1)))
    each = str(threads or max(1, cores // count))
    common = {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each}
    if not gpus:
        return [common] * count
    visible = _visible_gpus(gpus)
    return [common | {"CUDA_VISIBLE_DEVICES": visible[number % gpus]} for number in range(count)]


@contextmanager
def local_workers(environments: Sequence[Mapping[str, str]]) -> Iterator["distributed.Client"]:  # noqa: F821
    """A scheduler and workers on this machine, reached through the loopback address alone.

    Args:
        environments: The environment variables of each worker, beside those of this process.

    Yields:
        The client that gives them work. All processes are gone when the block ends.
    """
    import dask
    from distributed import Client, LocalCluster

    settings = {"distributed.scheduler.allowed-failures": ALLOWED_DEATHS, "distributed.admin.log-format": ""}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        cluster = LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", processes=True)
        stack.enter_context(cluster)
        for number, environment in enumerate(environments):
            stack.enter_context(_worker(cluster.scheduler_address, f"worker {number}", environment))
        client = stack.enter_context(Client(cluster))
        _wait_for_workers(client, len(environments))
        yield client


@contextmanager
def foreign_workers(address: str) -> Iterator["distributed.Client"]:  # noqa: F821
    """The workers of a Dask cluster that is there already.

    Args:
        address: Of its scheduler, such as ``tcp://10.0.0.5:8786``, or the path of a scheduler file.

    Yields:
        The client that gives them work. The cluster goes on when the block ends.

    Raises:
        InputError: If the scheduler does not answer, if no worker comes, or if a worker has another version
            of kdnb, torch or Python, or several threads.
    """
    from distributed import Client

    file = Path(address).expanduser()
    where = {"scheduler_file": str(file)} if file.is_file() else {"address": address}
    try:
        client = Client(**where, timeout=PATIENCE)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"No Dask scheduler answers at {address!r} ({error}). Give the address that the scheduler "
            "prints, such as tcp://10.0.0.5:8786, or the path of its scheduler file."
        ) from error
    with client:
        _wait_for_workers(client, 1)
        require_alike(client.run(facts))
        _require_one_thread(client.nthreads())
        yield client


def facts() -> dict[str, str]:
    """What a result depends on: versions of this process."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"kdnb": __version__, "torch": torch.__version__, "Python": python}


def require_alike(workers: Mapping[str, Mapping[str, str]]) -> None:
    """Checks that workers compute with what this process has.

    Args:
        workers: ``facts`` of each worker, by its address.

    Raises:
        InputError: For the first worker of another version.
    """
    own = facts()
    for address, theirs in workers.items():
        for name, version in own.items():
            if theirs.get(name) != version:
                raise InputError(
                    f"The worker at {address} has {name} {theirs.get(name, 'of no version')}, here it is "
                    f"{version}. Results of different versions are not comparable: install the same on both."
                )


def sees_folder(client: "distributed.Client", folder: Path) -> bool:  # noqa: F821
    """Whether all workers see a folder of this machine: on a shared disk, or on this machine itself.

    Args:
        client: Of the workers.

        folder: It is made if it is missing.

    Raises:
        InputError: If some workers see it and some do not, or if it cannot be written.
    """
    token = Path(folder).resolve() / f".seen-{uuid.uuid4().hex}"
    try:
        token.parent.mkdir(parents=True, exist_ok=True)
        token.write_text("")
        seen = client.run(Path.exists, token)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}). Choose another --out.") from error
    finally:
        token.unlink(missing_ok=True)
    if len(set(seen.values())) > 1:
        blind = next(address for address, sees in seen.items() if not sees)
        raise InputError(
            f"Some workers see the folder {folder}, the one at {blind} does not. Choose an --out on a disk "
            "that all of them share, or one that none of them sees: then every worker sends its files back."
        )
    return all(seen.values())


@contextmanager
def _worker(scheduler: str, name: str, environment: Mapping[str, str]) -> Iterator[None]:
    """A worker process of this machine, with a nanny that starts it again when it is killed."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler]
    command += ["--nthreads", "1", "--nworkers", "1", "--memory-limit", "0", "--host", "127.0.0.1"]
    command += ["--name", name, "--no-dashboard", "--death-timeout", str(PATIENCE)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | dict(environment), **quiet) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_workers(client: "distributed.Client", count: int) -> None:  # noqa: F821
    try:
        client.wait_for_workers(count, timeout=PATIENCE)
    except TimeoutError as error:
        raise InputError(
            f"The scheduler at {client.scheduler.address} answers, but of {count} workers not all came "
            f"within {PATIENCE} seconds. Start workers, or wait until the cluster has room."
        ) from error


def _require_one_thread(workers: Mapping[str, int]) -> None:
    for address, threads in workers.items():
        if threads != 1:
            raise InputError(
                f"The worker at {address} takes {threads} tasks at a time in one process, where "
                "they would share a random state. Start workers with --nthreads 1, as many as you like with "
                "--nworkers, and set OMP_NUM_THREADS and MKL_NUM_THREADS for the threads of each run."
            )


def _own_cores() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _visible_gpus(count: int) -> list[str]:
    """The names by which a process of its own can be given one of the GPUs that are visible here."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(count)]
