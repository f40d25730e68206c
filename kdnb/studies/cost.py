"""What the runs of a study will cost: counted arithmetic, and an estimate of time from a few timed steps."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import torch

from kdnb.datasets import Augmentation, Batches, Dataset
from kdnb.errors import InputError
from kdnb.method import Method
from kdnb.networks import build
from kdnb.runs import Spec
from kdnb.runs.running import assemble, training_data
from kdnb.studies.loaded import LoadedData
from kdnb.studies.plan import Arm, Study
from kdnb.train import evaluate, train
from kdnb.train.cost import step_operations

STEPS = 3  # that are timed, after as many that are not
EVALUATED = 500  # images on which an evaluation is timed


@dataclass(frozen=True)
class Cost:
    """What one run of an arm takes.

    Attributes:
        macs: Multiplications with addition in all training steps, forward and backward, for every network
            that takes part. Evaluations are not counted.

        seconds: Estimated time of the run on this machine, evaluations included. NaN where it was not timed.
    """

    macs: float
    seconds: float


def costs(
    study: Study, *, data_root: Path | None = None, threads: int = 1, timed: bool = True
) -> dict[str, Cost]:
    """Builds every arm and counts what one of its runs takes.

    Args:
        study: The study.

        data_root: Where data are downloaded and archives unpacked; None is the course's folder.

        threads: Threads that each run will have on the CPU.

        timed: Whether a few steps of each arm are timed, too.

    Returns:
        The cost of a run of each arm, with the values of its first trial, by the arm's name.

    Raises:
        InputError: If the data cannot be loaded or an arm cannot be built.
    """
    loaded, found = LoadedData(data_root), {}
    for name, arm in study.arms.items():
        try:
            found[name] = _cost(study, arm, loaded.of(arm.spec), threads, timed)
        except (InputError, RuntimeError) as error:
            raise InputError(f"Arm {name!r} cannot be built or run: {error}") from error
    return found


def _cost(study: Study, arm: Arm, data: Dataset, threads: int, timed: bool) -> Cost:
    spec = arm.run(arm.trials[0], study.seeds[0], None)
    shown = training_data(spec, data)
    teacher = None
    if arm.teacher_arm is not None:
        teacher = build(study.arms[arm.teacher_arm].spec.student, classes=len(data.classes))
    method, _ = assemble(spec, shown, teacher=teacher)
    augmentation = Augmentation(spec.flip, spec.pad, spec.padding)
    batches = shown.train_batches(spec.batch_size, seed=spec.seed, augmentation=augmentation)
    batches = replace(batches, views=method.views)
    steps = len(batches) * spec.epochs
    macs = step_operations(method, next(iter(batches))) / 2 * steps
    if not timed:
        return Cost(macs, math.nan)
    some = shown.few(max(STEPS * spec.batch_size, len(data.classes)), seed=spec.seed)
    with _threads(threads):
        a_step = _step_seconds(method, spec, some.train_batches(spec.batch_size, augmentation=augmentation))
        an_evaluation = _evaluation_seconds(method, spec, data)
    evaluations = math.ceil(spec.epochs / study.evaluate_every)
    return Cost(macs, steps * a_step + evaluations * an_evaluation)


def _step_seconds(method: Method, spec: Spec, batches: Batches) -> float:
    """The time of one step in the second of two short epochs; the first one warms up."""
    for epoch in train(method, batches, epochs=2, lr=1e-6, precision=spec.precision):
        seconds = epoch.seconds
    return seconds / len(batches)


def _evaluation_seconds(method: Method, spec: Spec, data: Dataset) -> float:
    """The time of one evaluation of both parts, from that of some images of the test part."""
    part = data.test.take(torch.arange(min(EVALUATED, len(data.test))))
    shown = replace(data, test=part).batches("test")
    start = perf_counter()
    evaluate(method, shown, precision=spec.precision)
    return (perf_counter() - start) * (len(data.validation) + len(data.test)) / len(part)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch computes with ``count`` threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
