"""How fast this machine trains: ratios measured in one run, not times to be remembered.

Rounds of the compared variants alternate, so that a machine whose speed drifts slows all of them.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdnb.datasets import Augmentation, Batches
from kdnb.method import Method
from kdnb.methods import METHODS, LabelsOnly
from kdnb.networks import build, cost
from kdnb.seeds import derived_seed
from kdnb.train import evaluate, train

NETWORKS = ("resnet8", "resnet20", "resnet8x4")
DISTILLATION = ("srrl", "semckd")


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


def distillation_steps(
    methods: tuple[str, ...] = DISTILLATION,
    *,
    student: str = "resnet8x4",
    teacher: str = "resnet32x4",
    batch_size: int = 64,
    steps: int = 2,
    rounds: int = 5,
    device: str = "auto",
) -> Iterator[dict[str, float | str]]:
    """One row a method that distils ``teacher`` into ``student``, of medians as in training_steps:

    ms: one step at ``auto`` precision. fp32_ms: the student's own step with labels alone in plain
    eager fp32, contiguous. multiple: ms / fp32_ms, with the smallest and largest of the rounds.
    over_parts: ms over the student's own step plus the teacher's forward pass, both at ``auto``.
    matmul_share: of the rate of large matrix products.
    """
    batches = _noise(batch_size * steps, batch_size)
    for name in methods:
        method = _distillation(name, student, teacher, batch_size)
        operations = step_operations(method, *next(iter(batches)))
        ours = train(method, batches, epochs=rounds + 1, lr=0.001, device=device)
        alone = train(
            LabelsOnly(build(student, classes=100)), batches, epochs=rounds + 1, lr=0.001, device=device
        )
        first, _ = next(ours), next(alone)
        place = next(method.parameters()).device
        taught = partial(evaluate, method.teacher, batches)
        plain = partial(_plain_steps, build(student, classes=100).to(place), batches.to(place))
        plain(), taught()
        compared = {
            "ms": partial(next, ours),
            "alone": partial(next, alone),
            "plain": plain,
            "taught": taught,
        }
        times: dict[str, list[float]] = {part: [] for part in (*compared, "matmul")}
        for _ in range(rounds):
            for part, work in compared.items():
                times[part].append(_seconds(work) / steps)
            times["matmul"].append(matmul_rate(place, first.bf16))
        yield _method_row(name, times, operations)


def _distillation(name: str, student: str, teacher: str, batch_size: int) -> Method:
    parts = [build(student, classes=100), build(teacher, classes=100)]
    if METHODS[name].fixed_batch:
        parts.append(batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("bench"))
        return METHODS[name](*parts)


def step_operations(method: Method, images: Tensor, labels: Tensor) -> int:
    """Floating-point operations of one forward and backward pass, counted by making it on a copy."""
    copied = copy.deepcopy(method).train()
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        sum(copied(images, labels, 0.0).values()).backward()
    return counter.get_total_flops()


def _method_row(name: str, times: dict[str, list[float]], operations: int) -> dict[str, float | str]:
    multiples = [ours / plain for ours, plain in zip(times["ms"], times["plain"], strict=True)]
    parts = zip(times["ms"], times["alone"], times["taught"], strict=True)
    return {
        "method": name,
        "ms": 1000 * median(times["ms"]),
        "fp32_ms": 1000 * median(times["plain"]),
        "multiple": median(multiples),
        "multiple_low": min(multiples),
        "multiple_high": max(multiples),
        "over_parts": median(ours / (alone + taught) for ours, alone, taught in parts),
        "matmul_share": operations / median(times["ms"]) / median(times["matmul"]),
    }


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
    """The rows as text, named by their first column, shares in percent."""
    frame = pd.DataFrame(rows).set_index(next(iter(rows[0])))
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
