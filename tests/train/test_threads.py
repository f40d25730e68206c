"""Which core torch's threads get, and that they are free again afterwards. Nothing here is timed."""

import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kdnb.methods import LabelsOnly
from kdnb.networks import build
from kdnb.train import evaluate, threads, train
from kdnb.train.threads import on_own_cores, one_to_a_core, openmp_team

CPU = torch.device("cpu")
MAIN, WORKER = 100, 101  # the two threads of the machine below
FREE = {MAIN: {4, 7}, WORKER: {4, 7}}
HELD = {MAIN: {4}, WORKER: {7}}


@pytest.fixture
def machine(monkeypatch) -> dict[int, set[int]]:
    """A Linux machine with the cores 4 and 7 and a team of two threads: the cores of each thread."""
    cores = {thread: set(allowed) for thread, allowed in FREE.items()}

    def place(thread: int, allowed: set[int]) -> None:
        cores[thread or MAIN] = set(allowed)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(cores[thread or MAIN]), raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", place, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(threads, "openmp_team", lambda count: [MAIN, WORKER][:count])
    return cores


@pytest.mark.parametrize(
    ("count", "allowed", "expected"),
    [
        (2, {0, 1}, True),
        (2, {4, 7}, True),
        (1, {0, 1}, False),
        (2, {0}, False),  # fewer cores than threads
        (2, {0, 1, 2, 3}, False),
        (4, {0, 1, 2, 3}, False),
        (2, (), False),  # the system does not say
    ],
)
def test_two_threads_on_two_cores_get_one_each(count, allowed, expected):
    assert one_to_a_core(count, allowed) is expected


def test_threads_are_held_from_the_first_batch_to_the_last(machine):
    seen = []
    for batch in on_own_cores("ab", CPU):
        seen.append((batch, dict(machine)))
    assert seen == [("a", HELD), ("b", HELD)]
    assert machine == FREE


def test_the_first_batch_is_made_by_free_threads(machine):
    """The worker processes of a DataLoader start with it, and inherit the cores of the thread that starts
    them."""

    def batches():
        made.append(dict(machine))
        yield 1
        made.append(dict(machine))
        yield 2

    made = []
    list(on_own_cores(batches(), CPU))
    assert made == [FREE, HELD]


def test_break_frees_the_threads(machine):
    for _ in on_own_cores("ab", CPU):
        assert machine == HELD
        break
    assert machine == FREE


def test_an_exception_in_the_loop_frees_the_threads(machine):
    def loop():
        for _ in on_own_cores("ab", CPU):
            assert machine == HELD
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert machine == FREE


def test_an_exception_of_the_batches_frees_the_threads(machine):
    def batches():
        yield 1
        assert machine == HELD
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(on_own_cores(batches(), CPU))
    assert machine == FREE


def test_only_a_cpu_holds_threads(machine):
    for _ in on_own_cores("ab", torch.device("meta")):
        assert machine == FREE


def test_no_batches_are_no_error(machine):
    assert list(on_own_cores([], CPU)) == []
    assert machine == FREE


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(machine, monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    assert list(on_own_cores("ab", CPU)) == ["a", "b"]


def test_an_openmp_that_cannot_be_asked_leaves_the_threads_free(machine, monkeypatch):
    monkeypatch.setattr(threads, "openmp_team", lambda count: [])
    for _ in on_own_cores("ab", CPU):
        assert machine == FREE


def test_a_system_that_forbids_it_is_no_reason_not_to_train(machine, monkeypatch):
    def forbid(thread: int, allowed: set[int]) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbid)
    assert list(on_own_cores("ab", CPU)) == ["a", "b"]


def images(count: int = 8) -> DataLoader:
    return DataLoader(TensorDataset(torch.zeros(count, 3, 8, 8), torch.zeros(count).long()), batch_size=4)


class Watching(LabelsOnly):
    """Learns from labels, and notes the cores of the threads in each step."""

    def __init__(self, machine: dict[int, set[int]], *, fails: bool = False) -> None:
        super().__init__(build("resnet8", classes=10))
        self.machine, self.fails, self.seen = machine, fails, []

    def losses(self, images, labels, epoch):
        self.seen.append(dict(self.machine))
        if self.fails:
            raise RuntimeError("a step failed")
        return super().losses(images, labels, epoch)

    def outputs(self, images):
        self.seen.append(dict(self.machine))
        return super().outputs(images)


def test_training_holds_the_threads_in_its_steps_and_frees_them_between_epochs(machine):
    method = Watching(machine)
    for _ in train(method, images(), epochs=2, lr=0.1, device="cpu"):
        assert machine == FREE
    assert method.seen == [HELD] * 4


def test_a_step_that_fails_frees_the_threads(machine):
    with pytest.raises(RuntimeError, match="a step failed") as caught:
        next(train(Watching(machine, fails=True), images(), epochs=1, lr=0.1, device="cpu"))
    assert machine == FREE
    assert caught.value.__traceback__ is not None  # it refers to the frames of the loop, which is over


def test_evaluation_holds_the_threads_too(machine):
    method = Watching(machine)
    evaluate(method, images())
    assert method.seen == [HELD] * 2
    assert machine == FREE


@pytest.mark.skipif(sys.platform != "linux", reason="asks the OpenMP that torch has on Linux")
def test_the_team_is_the_calling_thread_and_one_more():
    team = openmp_team(2)
    assert team[0] == threading.get_native_id()
    assert len(set(team)) == 2
    assert set(team) <= {int(task.name) for task in Path("/proc/self/task").iterdir()}
    assert openmp_team(2) == team


def test_a_torch_without_that_openmp_has_no_team(monkeypatch):
    monkeypatch.setattr(threads.ctypes, "CDLL", lambda path: object())
    assert openmp_team(2) == []
