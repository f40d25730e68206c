"""What a training step costs on the CPU beside another process that is always busy."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from kdnb.commands.bench.timing import noise, seconds
from kdnb.networks import build
from kdnb.train.hardware import use_bf16
from kdnb.train.threads import on_own_cores

_BUSY = "print(flush=True)\nwhile True: pass"
_TRAINS = "from kdnb.commands.bench.busy import train_without_end as run; run({network!r}, {batch_size})"
CPU = torch.device("cpu")


def busy_steps(
    *, network: str = "resnet8", batch_size: int = 64, steps: int = 12, rounds: int = 5
) -> Iterator[dict[str, float | str]]:
    """Times training steps on the CPU, alone and beside a busy process, with and without own cores.

    Args:
        network: Name of the network, which learns from labels alone.

        batch_size: Images a step.

        steps: Steps that are timed together: they take several turns beside another training.

        rounds: How often each of the four is timed, in turn.

    Yields:
        One row for each neighbour, of medians over the rounds. neighbour: A busy process of this login
        session, or of a session of its own, as another notebook is; Linux then often gives each session
        an equal share, however many threads it has. The third neighbour is the same training in a session
        of its own. quiet_ms: One step with no neighbour, each thread on
        a core of its own, as in ``train``. multiple: A step beside the neighbour over a quiet one, with
        the smallest and largest of the rounds. free_quiet_ms and free_multiple: The same where the system
        places the threads.
    """
    batches = list(noise(batch_size * steps, batch_size))
    net = build(network, classes=100).to(memory_format=torch.channels_last)
    own = partial(_steps, net, lambda: on_own_cores(batches, CPU))
    free = partial(_steps, net, lambda: batches)
    own()
    trains = _TRAINS.format(network=network, batch_size=batch_size)
    for neighbour, code, apart in (
        ("same session", _BUSY, False),
        ("own session", _BUSY, True),
        ("training", trains, True),
    ):
        quiet = {work: [] for work in (own, free)}
        busy = {work: [] for work in (own, free)}
        for number in range(rounds):
            # Each is the first in turn: what comes after a busy process is a little slower.
            for work in (own, free) if number % 2 else (free, own):
                quiet[work].append(seconds(work) / steps)
            for work in (own, free):
                with _busy_process(code, apart=apart):
                    busy[work].append(seconds(work) / steps)
        multiples = [with_it / median(quiet[own]) for with_it in busy[own]]
        yield {
            "neighbour": neighbour,
            "quiet_ms": 1000 * median(quiet[own]),
            "multiple": median(multiples),
            "multiple_low": min(multiples),
            "multiple_high": max(multiples),
            "free_quiet_ms": 1000 * median(quiet[free]),
            "free_multiple": median(busy[free]) / median(quiet[free]),
        }


def _steps(net: nn.Module, batches: Callable[[], Iterable]) -> None:
    """Training steps in the precision of ``auto``."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    net.train()
    for images, labels in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16("auto", CPU)):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()


def train_without_end(network: str, batch_size: int) -> None:
    """Training steps until the process is killed. A line is printed when they begin.

    Args:
        network: Name of the network.

        batch_size: Images a step.
    """
    batches = list(noise(batch_size * 4, batch_size))
    net = build(network, classes=100).to(memory_format=torch.channels_last)
    _steps(net, lambda: batches)
    print(flush=True)
    _steps(net, lambda: on_own_cores(itertools.cycle(batches), CPU))


@contextmanager
def _busy_process(code: str, *, apart: bool) -> Iterator[None]:
    """A process that runs endless code while the block runs, in a session of its own if ``apart``."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=apart) as process:
        try:
            process.stdout.readline()  # it is at work
            yield
        finally:
            process.kill()
