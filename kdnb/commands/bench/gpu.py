"""``kdnb bench gpu``: how busy a GPU is while it trains, and how long a whole training would take there."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from kdnb.commands.bench.timing import assembled, noise, seconds
from kdnb.datasets import Batches
from kdnb.errors import InputError
from kdnb.method import Method
from kdnb.train import train

CIFAR = 50_000  # images in an epoch
HOURS_OF = (240, 300)  # epochs: of the benchmarks, and of FFSD
MODES = {"eager": {}, "graph": {"graph": True}, "compile": {"compile": True}}
CASES = {"resnet8": 128, "resnet20": 128, "wrn_16_2": 128, "semckd": 64, "ffsd": 128}  # with the batch size


class Measured(NamedTuple):
    """What was measured of one epoch.

    Attributes:
        seconds: That it takes, without a profiler.

        busy: Seconds in which the GPU ran at least one kernel or copy.

        steps: In the epoch.
    """

    seconds: float
    busy: float
    steps: int


def gpu_steps(*, images: int = CIFAR, cases: dict[str, int] = CASES) -> Iterator[dict[str, float | str]]:
    """Times epochs on a GPU, each of ``CASES`` in each of ``MODES``.

    The data are random pixels of CIFAR's size, which cost what CIFAR costs. Batches are full.

    Args:
        images: In an epoch.

        cases: Names of networks, which learn from labels, and of methods, with their batch sizes.

    Yields:
        A row a case and mode, as ``row`` says.

    Raises:
        InputError: Where there is no GPU.
    """
    if not torch.cuda.is_available():
        raise InputError("kdnb bench gpu needs a GPU with CUDA, and torch finds none on this machine.")
    for case, batch_size in cases.items():
        for mode, options in MODES.items():
            yield row(case, mode, images, _measure(case, batch_size, images, **options))


def row(case: str, mode: str, images: int, measured: Measured) -> dict[str, float | str]:
    """One row of the table.

    Args:
        case: Name of a network or method.

        mode: ``"eager"``, ``"graph"`` or ``"compile"``.

        images: In the epoch that was measured.

        measured: What was measured.

    Returns:
        ``ms`` of a step; ``busy_share`` of the time in which the GPU computes; ``epochs_per_second`` and
        ``hours_for_240`` and ``hours_for_300`` for CIFAR's 50,000 images, whatever number was measured.
    """
    epoch = measured.seconds * CIFAR / images
    return {
        "case": f"{case}, {mode}",
        "ms": 1000 * measured.seconds / measured.steps,
        "busy_share": measured.busy / measured.seconds,
        "epochs_per_second": 1 / epoch,
        **{f"hours_for_{epochs}": epochs * epoch / 3600 for epochs in HOURS_OF},
    }


def busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of some spans lasts: what two kernels do side by side counts once.

    Args:
        spans: Start and end of each, in microseconds.
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6


def _measure(
    case: str, batch_size: int, images: int, *, graph: bool = False, compile: bool = False
) -> Measured:
    """Of the third epoch the time, of the fourth the kernels: the profiler slows Python, not the GPU."""
    batches = replace(noise(images, batch_size), drop_last=True)
    options = {"epochs": 4, "lr": 0.001, "device": "cuda", "graph": graph, "compile": compile}
    running = train(_method(case, batches), batches, **options)
    for _ in range(2):  # compiles, and fills the allocator's memory
        next(running)
    taken = seconds(partial(next, running))
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        seconds(partial(next, running))
    kernels = (event.time_range for event in seen.events() if event.device_type == DeviceType.CUDA)
    return Measured(taken, busy_seconds((span.start, span.end) for span in kernels), len(batches))


def _method(case: str, batches: Batches) -> Method:
    """The method of a case; any other case is a network that learns from labels alone."""
    if case == "semckd":
        return assembled("semckd", batches, student="resnet8x4", teacher="resnet32x4")
    if case == "ffsd":
        return assembled("ffsd", batches, student="resnet32")
    return assembled("labels-only", batches, student=case)
