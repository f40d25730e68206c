"""The options that say on which workers ``kdnb run --grid`` and ``kdnb study run`` compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from distributed import Client

_OPTIONS = (
    click.option("--cluster", metavar="ADDRESS", help="The scheduler of a Dask cluster; else this machine."),
    click.option("--workers", type=click.IntRange(min=1), help="On this machine; one a core, or one a GPU."),
    click.option(
        "--threads", type=click.IntRange(min=1), help="Threads of each worker; the cores shared out."
    ),
    click.option(
        "--per-gpu", type=click.IntRange(min=1), default=1, show_default=True, help="Workers a GPU."
    ),
)


def worker_options(command: Callable) -> Callable:
    """Adds --cluster, --workers, --threads and --per-gpu to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def connected(cluster: str | None, environments: list[dict[str, str]]) -> Iterator[Client]:
    """Reaches the workers of a cluster, or starts workers on this machine, and prints where to watch them.

    Args:
        cluster: The address of a scheduler; None is this machine.

        environments: The environment variables of each worker of this machine.

    Yields:
        The client that gives them work.

    Raises:
        InputError: If the workers cannot be reached or used.
    """
    from kdnb.studies.cluster import foreign_workers, local_workers

    with foreign_workers(cluster) if cluster else local_workers(environments) as client:
        click.echo(f"Dashboard: {client.dashboard_link}", err=True)
        yield client
