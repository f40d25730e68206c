"""The threads that torch computes with, each on a core of its own while a network learns or is evaluated.

torch divides most operations among the threads of an OpenMP team, and each operation ends when the slowest
of them is done. Threads that wait spin: they keep their core busy. Beside another busy process the system
often places both threads of a team of two on one core. There they take turns of milliseconds, and one spins
through its turn while the other has work to do. An epoch was seen to take four to seventy times as long as
a quiet one. ``OMP_WAIT_POLICY=passive`` does not help, because the convolutions of oneDNN have barriers of
their own that always spin.

When each thread has a core of its own, one of them shares it with the busy process. A step then costs a
little over two times a quiet one. It costs a little over three times where the busy process belongs to
another login session and Linux gives each session an equal share. The number of threads does not depend on
the load, and neither do the bits of the result.

Two trainings side by side on the same two cores are not helped by that, since each still waits for two cores
at once. They take turns: see ``kdnb.train.turns``.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TypeVar

import torch

from kdnb.train.turns import in_turns, meeting_place

T = TypeVar("T")


def on_own_cores(batches: Iterable[T], device: torch.device) -> Iterator[T]:
    """Yields the batches, and keeps each of torch's threads on a core of its own from the first to the last.

    The threads are free again when the batches end, when an exception leaves the loop over them, and at
    ``break``. They are held only after the first batch was made, so that the worker processes that a
    DataLoader starts for it are not bound to a core.

    Args:
        batches: What the loop is over.

        device: Where the network computes. Only on a CPU is anything done.

    Yields:
        Each of ``batches``.

    Example:
        >>> list(on_own_cores(range(3), torch.device("cpu")))
        [0, 1, 2]
    """
    batches = iter(batches)
    for first in batches:
        cores = core_of_each_thread() if device.type == "cpu" else {}
        rest = chain((first,), batches)
        with _held(cores):
            yield from in_turns(rest, meeting_place()) if cores else rest


def core_of_each_thread() -> dict[int, int]:
    """Which core each of torch's threads gets while a network learns here.

    Returns:
        The core by the system's number of the thread, for the team of the calling thread. It is empty
        where the threads are left to the system.
    """
    threads = torch.get_num_threads()
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else ()
    if not one_to_a_core(threads, allowed):
        return {}
    return dict(zip(openmp_team(threads), sorted(allowed), strict=False))


def one_to_a_core(threads: int, allowed: Collection[int]) -> bool:
    """Whether each of torch's threads is kept on a core of its own.

    That is so for two threads on two cores. With fewer cores than threads it is impossible. With more
    cores the system finds a free one for each thread, and the best choice would depend on which cores are
    two halves of one. In larger teams OpenMP ends threads and starts others between two operations, and
    those would inherit the one core of the thread that starts them.

    Args:
        threads: Number of torch's threads.

        allowed: The cores that this process may use. Empty where the system does not say.
    """
    return threads == 2 and len(allowed) == 2


def openmp_team(threads: int) -> list[int]:
    """The system's numbers of the threads that share the calling thread's operations, itself first.

    OpenMP itself runs a function in each thread of the team that torch uses, so other threads of the
    process are never mistaken for them.

    Args:
        threads: Number of threads in the team.

    Returns:
        One number a thread. Empty where torch was not built with an OpenMP that can be asked.
    """
    try:
        openmp = ctypes.CDLL(torch._C.__file__)  # symbols of the libraries that torch was linked with
        run_in_team, number_in_team = openmp.GOMP_parallel, openmp.omp_get_thread_num
    except (AttributeError, OSError):
        return []
    found = {}

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def tell(_nothing: int | None) -> None:
        found[number_in_team()] = threading.get_native_id()

    run_in_team(tell, None, threads, 0)
    return [found[number] for number in sorted(found)]


@contextmanager
def _held(cores: dict[int, int]) -> Iterator[None]:
    """Each thread on its core, and back on the cores it had before.

    A system that forbids this, or a thread that has ended, is no reason not to train.
    """
    before = {}
    try:
        for thread, core in cores.items():
            with suppress(OSError):
                before[thread] = os.sched_getaffinity(thread)
                os.sched_setaffinity(thread, {core})
        yield
    finally:
        for thread, allowed in before.items():
            with suppress(OSError):
                os.sched_setaffinity(thread, allowed)
