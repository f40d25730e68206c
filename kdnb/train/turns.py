"""Trainings on the same cores compute in turn.

A step on two threads needs two cores at once. If two trainings compute at the same time on the same two
cores, the threads of each wait for one another while the other training's threads spin on the cores. Each
training was seen to take three to eight times as long as alone. If they take turns, each takes little more
than twice as long.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

T = TypeVar("T")

TURN = 0.1  # seconds; long beside the switch from one training to another, short beside an epoch
PATIENCE = 5.0  # seconds that a training waits for its turn before it computes without one
POLL = 0.005  # seconds between two looks at a lock; each look disturbs the training whose turn it is


def meeting_place() -> Path:
    """The folder of the locks that all trainings of this user on this machine share."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"kdnb-turns-{user}"


@contextmanager
def turn_taker(folder: Path, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[], None]]:
    """Computes only while no other training with the same folder does, in turns of ``TURN`` seconds.

    There are two locks. A training holds ``running`` while it computes. Whoever wants ``running`` first
    takes ``next``, so a training that has just given ``running`` away queues behind the one that waits.
    The system frees the locks of a process that ends in any way. If a turn does not come within
    ``PATIENCE`` seconds, because the other training was suspended for example, or if the folder cannot be
    written to, the block computes without turns: they save time and change no result, so a training never
    fails for want of one.

    Args:
        folder: Where the locks lie. It is made if it is missing.

        clock: Seconds since any moment.

    Yields:
        A function to call between two steps. It passes the turn on when the time is up, and then waits for
        the next one.
    """
    next_one, running = FileLock(folder / "next"), FileLock(folder / "running")
    ends = 0.0

    def take_turn() -> None:
        nonlocal ends
        with next_one.acquire(PATIENCE, POLL):
            running.acquire(PATIENCE, POLL)
        ends = clock() + TURN

    def between_steps() -> None:
        if running.is_locked and clock() > ends:
            running.release()
            with suppress(OSError):
                take_turn()

    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        take_turn()
    try:
        yield between_steps
    finally:
        running.release()


def in_turns(batches: Iterable[T], folder: Path) -> Iterator[T]:
    """Yields the batches, and lets other trainings compute between them; see ``turn_taker``.

    Args:
        batches: What the loop is over.

        folder: Where the locks lie.

    Yields:
        Each of ``batches``.
    """
    with turn_taker(folder) as between_steps:
        for batch in batches:
            yield batch
            between_steps()
