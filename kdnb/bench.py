"""How fast this machine trains: ratios measured in one run, not times to be remembered.

Rounds of the compared variants alternate, so that a machine whose speed drifts slows all of them.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdnb.datasets import Batches
from kdnb.method import Method
from kdnb.methods import METHODS, LabelsOnly
from kdnb.networks import build, cost
from kdnb.seeds import derived_seed
from kdnb.timing import exhaust, matmul_rate, noise, plain_steps, seconds
from kdnb.train import evaluate, train

NETWORKS = ("resnet8", "resnet20", "resnet8x4")
DISTILLATION = ("srrl", "semckd")
GROUPS = ("dml", "ffsd")


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
    batches = noise(batch_size * steps, batch_size)
    for name in networks:
        net = build(name, classes=100)
        ours = train(LabelsOnly(net), batches, epochs=rounds + 1, lr=0.01, device=device)
        first = next(ours)
        place = next(net.parameters()).device
        plain = partial(plain_steps, build(name, classes=100).to(place), batches.to(place))
        plain()
        times = {"auto": [], "plain": [], "loading": [], "matmul": []}
        for number in range(rounds):
            times["auto"].append(seconds(partial(next, ours)) / steps)
            times["plain"].append(seconds(plain) / steps)
            loading = partial(exhaust, batches.to(place), first.number + number)
            times["loading"].append(seconds(loading) / steps)
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
    batches = noise(batch_size * steps, batch_size)
    for name in methods:
        method = _distillation(name, student, teacher, batch_size)
        taught = partial(evaluate, method.teacher, batches)
        yield _timed(name, method, student, taught, batches, steps=steps, rounds=rounds, device=device)


def group_steps(
    methods: tuple[str, ...] = GROUPS,
    *,
    network: str = "resnet32",
    batch_size: int = 128,
    steps: int = 2,
    rounds: int = 5,
    device: str = "auto",
) -> Iterator[dict[str, float | str]]:
    """One row a method in which several of ``network`` learn together, two students and their leader
    where there is one. As in distillation_steps, but over_parts is ms over that many steps of one
    network alone at ``auto``."""
    batches = noise(batch_size * steps, batch_size)
    how = {"steps": steps, "rounds": rounds, "device": device}
    for name in methods:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("bench"))
            method = METHODS[name](lambda number: build(network, classes=100, seed=number), students=2)
        copies = len(method.students) + (method.leadership != "none")
        yield _timed(name, method, network, None, batches, copies=copies, **how)


def _timed(
    name: str,
    method: Method,
    network: str,
    taught: Callable[[], object] | None,
    batches: Batches,
    *,
    copies: int = 1,
    steps: int,
    rounds: int,
    device: str,
) -> dict[str, float | str]:
    """One row: steps of ``method`` beside those of ``network`` alone and what else it is made of."""
    operations = step_operations(method, *next(iter(batches)))
    ours = train(method, batches, epochs=rounds + 1, lr=0.001, device=device)
    lone = LabelsOnly(build(network, classes=100))
    alone = train(lone, batches, epochs=rounds + 1, lr=0.001, device=device)
    first, _ = next(ours), next(alone)
    place = next(method.parameters()).device
    plain = partial(plain_steps, build(network, classes=100).to(place), batches.to(place))
    compared = {"ms": partial(next, ours), "alone": partial(next, alone), "plain": plain}
    if taught is not None:
        compared["taught"] = taught
        taught()
    plain()
    times: dict[str, list[float]] = {part: [] for part in (*compared, "matmul")}
    for _ in range(rounds):
        for part, work in compared.items():
            times[part].append(seconds(work) / steps)
        times["matmul"].append(matmul_rate(place, first.bf16))
    others = times.get("taught", [0.0] * rounds)
    parts = [copies * own + other for own, other in zip(times["alone"], others, strict=True)]
    return _method_row(name, times, parts, operations)


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


def _method_row(
    name: str, times: dict[str, list[float]], parts: list[float], operations: int
) -> dict[str, float | str]:
    multiples = [ours / plain for ours, plain in zip(times["ms"], times["plain"], strict=True)]
    return {
        "method": name,
        "ms": 1000 * median(times["ms"]),
        "fp32_ms": 1000 * median(times["plain"]),
        "multiple": median(multiples),
        "multiple_low": min(multiples),
        "multiple_high": max(multiples),
        "over_parts": median(ours / whole for ours, whole in zip(times["ms"], parts, strict=True)),
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


def table(rows: list[dict[str, float | str]]) -> str:
    """The rows as text, named by their first column, shares in percent."""
    frame = pd.DataFrame(rows).set_index(next(iter(rows[0])))
    shares = [column for column in frame.columns if column.endswith("_share")]
    frame[shares] *= 100
    frame.columns = [column.replace("_share", "_%") for column in frame.columns]
    return frame.round(2).to_string()
