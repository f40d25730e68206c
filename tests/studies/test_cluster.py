"""How many workers there are, what each of them sees, and what is said when they cannot be used."""

import os

import pytest
import torch

from kdnb.errors import InputError
from kdnb.studies import cluster
from kdnb.studies.cluster import facts, foreign_workers, require_alike, sees_folder, worker_environments


@pytest.fixture
def machine(monkeypatch):
    """A machine with eight cores and no GPU."""
    monkeypatch.setattr(cluster, "_own_cores", lambda: range(8))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("workers", "threads", "expected"),
    [(None, None, (8, "1")), (2, None, (2, "4")), (3, None, (3, "2")), (None, 4, (2, "4")), (2, 1, (2, "1"))],
)
def test_the_cores_are_shared_out(machine, workers, threads, expected):
    found = worker_environments(workers, threads, 1)
    assert (len(found), found[0]["OMP_NUM_THREADS"]) == expected
    assert "CUDA_VISIBLE_DEVICES" not in found[0]


def test_every_gpu_has_its_workers(machine):
    machine.setattr(torch.cuda, "device_count", lambda: 2)
    found = [worker["CUDA_VISIBLE_DEVICES"] for worker in worker_environments(None, None, 2)]
    assert sorted(found) == ["0", "0", "1", "1"]


def test_workers_get_the_gpus_that_are_visible_here(machine):
    machine.setattr(torch.cuda, "device_count", lambda: 2)
    machine.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [w["CUDA_VISIBLE_DEVICES"] for w in worker_environments(None, None, 1)] == ["4", "7"]


@pytest.mark.parametrize("numbers", [(0, None, 1), (None, 0, 1), (None, None, 0)])
def test_no_workers_are_refused(machine, numbers):
    with pytest.raises(InputError, match="must be at least 1, found 0"):
        worker_environments(*numbers)


def test_workers_of_the_same_versions_are_alike():
    require_alike({"tcp://a": facts(), "tcp://b": facts()})


@pytest.mark.parametrize("name", ["kdnb", "torch", "Python"])
def test_another_version_is_named(name):
    with pytest.raises(InputError, match=rf"tcp://b has {name} 0\.1, here it is"):
        require_alike({"tcp://a": facts(), "tcp://b": facts() | {name: "0.1"}})


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with (
        pytest.raises(InputError, match=r"No Dask scheduler answers at 'tcp://127.0.0.1:9'"),
        foreign_workers("tcp://127.0.0.1:9"),
    ):
        pass


def test_a_word_is_no_address(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with pytest.raises(InputError, match="No Dask scheduler answers at 'slurm'"), foreign_workers("slurm"):
        pass


class Workers:
    """A client of two workers, of which some see what this machine writes."""

    def __init__(self, *sees: bool) -> None:
        self.sees = sees

    def run(self, function, path):
        assert path.exists()
        return {f"tcp://{number}": function(path) if sees else False for number, sees in enumerate(self.sees)}


@pytest.mark.parametrize("sees", [True, False])
def test_all_workers_see_a_folder_or_none_does(tmp_path, sees):
    assert sees_folder(Workers(sees, sees), tmp_path) is sees


def test_a_folder_that_only_some_workers_see_is_refused(tmp_path):
    with pytest.raises(InputError, match="the one at tcp://1 does not"):
        sees_folder(Workers(True, False), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_with_several_threads_is_refused():
    with pytest.raises(InputError, match="takes 4 tasks at a time in one process"):
        cluster._require_one_thread({"tcp://a": 1, "tcp://b": 4})


def test_own_cores_are_those_that_the_process_may_use():
    assert len(cluster._own_cores()) == len(
        getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0)
    )
