"""How fast this machine trains, as ratios that are measured in one run.

Rounds of the compared variants alternate, so that a machine whose speed drifts slows all of them.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import pandas as pd
from torch import nn

from kdnb.commands.bench.timing import assembled, exhaust, matmul_rate, noise, plain_steps, seconds
from kdnb.datasets import Batches
from kdnb.method import Method
from kdnb.methods import LabelsOnly
from kdnb.networks import build, cost
from kdnb.train import evaluate, train
from kdnb.train.cost import step_memory, step_operations

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
    """Times training steps of single networks beside plain fp32 ones.

    Args:
        networks: Names of the networks.

        batch_size: Images in a batch.

        steps: Training steps in a round.

        rounds: Rounds; the values are medians over them.

        device: As for ``train``.

    Yields:
        A row for every network. ms: one step of ``train`` at ``auto`` precision, data loading included.
        fp32_ms: the same step in plain eager fp32, contiguous, without Fabric. ratio: fp32_ms / ms, with
        the smallest and the largest of the rounds. matmul_share: of the rate at which the machine
        multiplies large matrices in the precision of ``auto``. loading_share: of making the batches.
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
    """Times training steps of methods with one student and one teacher.

    Args:
        methods: Names of the methods.

        student: Name of the student.

        teacher: Name of the teacher.

        batch_size: Images in a batch.

        steps: Training steps in a round.

        rounds: Rounds; the values are medians over them.

        device: As for ``train``.

    Yields:
        A row for every method. ms: one step at ``auto`` precision. fp32_ms: the student's own step with
        labels alone in plain eager fp32, contiguous. multiple: ms / fp32_ms, with the smallest and the
        largest of the rounds. over_parts: ms over the student's own step plus the teacher's forward pass,
        both at ``auto``. memory: step_memory over that of the student with labels alone. matmul_share: of
        the rate of large matrix products.
    """
    batches = noise(batch_size * steps, batch_size)
    for name in methods:
        method = assembled(name, batches, student=student, teacher=teacher)
        taught = partial(evaluate, method.teacher, batches)
        how = {"steps": steps, "rounds": rounds, "device": device}
        yield _timed(name, method, [build(student, classes=100)], batches, taught=taught, **how)


def group_steps(
    methods: tuple[str, ...] = GROUPS,
    *,
    network: str = "resnet32",
    batch_size: int = 128,
    steps: int = 2,
    rounds: int = 5,
    device: str = "auto",
) -> Iterator[dict[str, float | str]]:
    """Times training steps of methods in which several networks learn together.

    There are two students, and a leader where the method has one.

    Args:
        methods: Names of the methods.

        network: Name of the network that every learner is.

        batch_size: Images in a batch.

        steps: Training steps in a round.

        rounds: Rounds; the values are medians over them.

        device: As for ``train``.

    Yields:
        A row for every method, as of ``distillation_steps``. over_parts is ms over as many steps of one
        network alone at ``auto`` as there are learners.
    """
    batches = noise(batch_size * steps, batch_size)
    how = {"steps": steps, "rounds": rounds, "device": device}
    for name in methods:
        method = assembled(name, batches, student=network, students=2)
        copies = len(method.students) + (method.leadership != "none")
        yield _timed(name, method, [build(network, classes=100)], batches, copies=copies, **how)


def joint_steps(
    *,
    student: str = "resnet20",
    deep: str = "resnet56",
    depths: tuple[int, ...] = (44, 32, 20),
    batch_size: int = 128,
    steps: int = 1,
    rounds: int = 5,
    device: str = "auto",
) -> Iterator[dict[str, float | str]]:
    """Times training steps of ECD, and of DDNN with private and with shared batch norm.

    Args:
        student: Name of ECD's student.

        deep: Name of DDNN's full network.

        depths: Layers of DDNN's sub-nets, from deep to shallow.

        batch_size: Images in a batch.

        steps: Training steps in a round.

        rounds: Rounds; the values are medians over them.

        device: As for ``train``.

    Yields:
        A row for every method, as of ``distillation_steps``. over_parts is ms over the sum of the steps of
        its networks, each alone at ``auto``: student and dynamic teacher, or a network of every depth.
    """
    batches = noise(batch_size * steps, batch_size)
    how = {"steps": steps, "rounds": rounds, "device": device}
    grown = assembled("ecd", batches, student=student)
    yield _timed("ecd", grown, [build(student, classes=100), copy.deepcopy(grown.teacher)], batches, **how)
    for batch_norm in ("private", "shared"):
        nested = assembled("ddnn", batches, student=deep, depths=depths, batch_norm=batch_norm)
        alone = [nested.net.export(depth) for depth in nested.net.depths]
        yield _timed(f"ddnn, {batch_norm}", nested, alone, batches, **how)


def _timed(
    name: str,
    method: Method,
    alone: Sequence[nn.Module],
    batches: Batches,
    *,
    taught: Callable[[], object] | None = None,
    copies: int = 1,
    steps: int,
    rounds: int,
    device: str,
) -> dict[str, float | str]:
    """One row: steps of ``method`` beside those of the networks that it is made of.

    Each network of ``alone`` trains with labels and counts ``copies`` times. ``taught`` is what a teacher
    adds. The first network is also timed in plain fp32.
    """
    batch = next(iter(batches))
    operations = step_operations(method, batch)
    memory = step_memory(method, batch) / step_memory(LabelsOnly(alone[0]), batch)
    plain_net = copy.deepcopy(alone[0])
    running = [
        train(learner, batches, epochs=rounds + 1, lr=0.001, device=device)
        for learner in (method, *map(LabelsOnly, alone))
    ]
    first, *_ = [next(run) for run in running]
    place = next(method.parameters()).device
    plain = partial(plain_steps, plain_net.to(place), batches.to(place))
    work = {"plain": plain} | ({"taught": taught} if taught is not None else {})
    for warm_up in work.values():
        warm_up()
    work |= {"ms": partial(next, running[0])}
    work |= {f"alone {number}": partial(next, run) for number, run in enumerate(running[1:])}
    times: dict[str, list[float]] = {part: [] for part in (*work, "matmul")}
    for _ in range(rounds):
        for part, do in work.items():
            times[part].append(seconds(do) / steps)
        times["matmul"].append(matmul_rate(place, first.bf16))
    each = [times[part] for part in times if part.startswith("alone")]
    others = times.get("taught", [0.0] * rounds)
    parts = [copies * sum(own) + other for *own, other in zip(*each, others, strict=True)]
    return _method_row(name, times, parts, operations) | {"memory": memory}


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
    """Rows as text, named by their first column, shares in percent.

    Args:
        rows: All with the same columns. A column that ends in ``_share`` is a share of 1.
    """
    frame = pd.DataFrame(rows).set_index(next(iter(rows[0])))
    shares = [column for column in frame.columns if column.endswith("_share")]
    frame[shares] *= 100
    frame.columns = [column.replace("_share", "_%") for column in frame.columns]
    return frame.round(2).to_string()
