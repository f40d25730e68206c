"""How fast this machine trains: ratios measured in one run, not times to be remembered.

Rounds of the compared variants alternate, so that a machine whose speed drifts slows all of them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from kdnb.datasets import Augmentation, Batches
from kdnb.methods import LabelsOnly
from kdnb.networks import build, cost
from kdnb.seeds import derived_seed
from kdnb.train import train

NETWORKS = ("resnet8", "resnet20", "resnet8x4")


def training_steps(
    networks: tuple[str, ...] = NETWORKS,
    *,
    batch_size: int = 128,
    steps: int = 4,
    rounds: int = 5,
    device: str = "auto",
) -> Iterator[dict[str, float | str]]:
    """One row a network, of medians over ``rounds`` alternating rounds of ``steps`` steps each:

    ms: one step of ``train`` at ``auto`` precision, data loading included. fp32_ms: the same step
    in plain eager fp32, contiguous, without Fabric. ratio: fp32_ms / ms, with the smallest and
    largest of the rounds. matmul_share: of the rate at which the machine multiplies large matrices
    in the precision of ``auto``. loading_share: of making the batches.
    """
    batches = _noise(batch_size * steps, batch_size)
    for name in networks:
        net = build(name, classes=100)
        ours = train(LabelsOnly(net), batches, epochs=rounds + 1, lr=0.01, device=device)
        first = next(ours)
        place = next(net.parameters()).device
        plain = partial(_plain_steps, build(name, classes=100).to(place), batches.to(place))
        plain()
        times = {"auto": [], "plain": [], "loading": [], "matmul": []}
        for number in range(rounds):
            times["auto"].append(_seconds(partial(next, ours)) / steps)
            times["plain"].append(_seconds(plain) / steps)
            loading = partial(_exhaust, batches.to(place), first.number + number)
            times["loading"].append(_seconds(loading) / steps)
            times["matmul"].append(matmul_rate(place, first.bf16))
        yield _row(name, times, 6 * cost(net).macs * batch_size)


def _row(name: str, times: dict[str, list[float]], operations: int) -> dict[str, float | str]:
    """operations: of one step; a multiply-accumulate counts 2, the backward pass twice forward."""
    ratios = [plain / auto for plain, auto in zip(times["plain"], times["auto"], strict=True)]
    auto = median(times["auto"])
    return {
        "network": name,
        "ms": 1000 * auto,
        "fp32_ms": 1000 * median(times["plain"]),
        "ratio": median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "matmul_share": operations / auto / median(times["matmul"]),
        "loading_share": median(times["loading"]) / auto,
    }


def matmul_rate(device: torch.device, bf16: bool, *, size: int = 2048) -> float:
    """Operations a second in one large matrix product."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / _seconds(partial(torch.mm, a, b))


def table(rows: list[dict[str, float | str]]) -> str:
    """The rows as text, shares in percent."""
    frame = pd.DataFrame(rows).set_index("network")
    shares = [column for column in frame.columns if column.endswith("_share")]
    frame[shares] *= 100
    frame.columns = [column.replace("_share", "_%") for column in frame.columns]
    return frame.round(2).to_string()


def _noise(count: int, batch_size: int) -> Batches:
    generator = torch.Generator().manual_seed(derived_seed("bench"))
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 100, (count,), generator=generator)
    augmentation = Augmentation()
    mean, spread = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return Batches(images, labels, batch_size, mean, spread, True, augmentation)


def _plain_steps(net: nn.Module, batches: Batches) -> None:
    """The loop that anyone would write first."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    net.train()
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(images.contiguous()), labels).backward()
        optimizer.step()


def _exhaust(batches: Batches, epoch: int) -> None:
    for _ in batches.epoch(epoch):
        pass


def _seconds(work: Callable[[], object]) -> float:
    _wait()
    start = perf_counter()
    work()
    _wait()
    return perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
