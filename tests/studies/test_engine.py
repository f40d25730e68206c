"""Studies on a real scheduler and two worker processes, through the loopback address."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from distributed import Future
from filelock import FileLock, Timeout
from small_runs import assert_same_result
from small_study import small_study
from waiting import wait_until

from kdnb.errors import InputError
from kdnb.runs import Spec, run
from kdnb.studies import Failed, Finished, Progress
from kdnb.studies import cluster as clusters
from kdnb.studies.cluster import facts, foreign_workers, local_workers, sees_folder
from kdnb.studies.engine import run_study

pytestmark = pytest.mark.slow

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
LONG = 60  # epochs; a run of this length is killed in the middle


@pytest.fixture(scope="module")
def client() -> Iterator:
    with local_workers([ONE_THREAD, ONE_THREAD]) as client:
        yield client


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers have: other numbers of threads may give other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arms(*names: str, **settings: object) -> dict:
    return {name: {"method": "labels-only"} | settings for name in names}


def expected(spec: Spec, out: Path) -> Path:
    """The folder of the same run, trained here and now."""
    run(spec, out=out)
    return out / spec.name


def test_a_study_gives_the_runs_that_single_commands_give(client, pictures, tmp_path):
    study = small_study(str(pictures), seeds=(10, 11), search={"seeds": [0], "values": {"lr": [0.01, 0.1]}})
    ended = list(run_study(study, tmp_path / "study", client))
    assert len(ended) == study.most_runs == 12
    assert ended[-1].waiting == 0
    progress = Progress(study, tmp_path / "study")
    [(_, spec), _] = progress.reported(study.arms["kd"])
    teacher = tmp_path / "study" / spec.teacher
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / spec.teacher).symlink_to(teacher)
    assert_same_result(tmp_path / "study" / spec.name, expected(spec, tmp_path / "alone"))


def test_nothing_is_left_to_do_the_second_time(client, pictures, tmp_path):
    study = small_study(str(pictures), seeds=(10,), search={}, arms=arms("labels only", "again", epochs=1))
    assert len(list(run_study(study, tmp_path, client))) == 1  # the arms share one run
    assert list(run_study(study, tmp_path, client)) == []


def test_a_killed_worker_costs_no_run_and_no_bit(client, pictures, tmp_path):
    """The worker that trains is killed when the first epochs are on disk; its run goes on elsewhere."""
    study = small_study(
        str(pictures),
        seeds=(10,),
        search={},
        arms=arms("labels only", "again", epochs=LONG),
        evaluate_every=LONG,
    )
    out, killed = tmp_path / "study", threading.Event()
    spec = study.arms["again"].run({}, 10, None)

    def kill() -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not (out / spec.name / "state.json").exists():
            time.sleep(0.01)
        busy = [address for address, keys in client.processing().items() if keys]
        [(_, process)] = client.run(os.getpid, workers=busy).items()
        os.kill(process, signal.SIGKILL)
        assert not (out / spec.name / "run.json").exists()
        killed.set()

    thread = threading.Thread(target=kill)
    thread.start()
    [ended] = run_study(study, out, client)
    thread.join()
    assert killed.is_set()
    assert isinstance(ended.outcome, Finished)
    # A new worker takes a moment; what follows needs both.
    client.wait_for_workers(2, timeout=120)
    run(spec, out=tmp_path / "whole", evaluate_every=LONG)
    assert_same_result(out / spec.name, tmp_path / "whole" / spec.name)


def test_a_run_that_fails_is_named_and_the_others_go_on(client, pictures, tmp_path):
    study = small_study(
        str(pictures),
        seeds=(10,),
        search={},
        arms=arms("labels only") | arms("diverges", lr=1e30) | arms("no such data", data="/no/such/folder"),
    )
    outcomes = {event.spec.lr: event.outcome for event in run_study(study, tmp_path, client)}
    assert isinstance(outcomes[1e30], Failed)
    assert outcomes[1e30].kind == "NotFinite"
    progress = Progress(study, tmp_path)
    [(_, lost)] = progress.reported(study.arms["no such data"])
    assert "/no/such/folder" in progress.outcome(lost).message
    [(_, done)] = progress.reported(study.arms["labels only"])
    assert isinstance(progress.outcome(done), Finished)
    # The one that would only repeat itself is not tried again; the other is.
    assert [event.spec.data for event in run_study(study, tmp_path, client)] == ["/no/such/folder"]


def test_workers_that_do_not_see_the_folder_send_their_files(client, pictures, tmp_path, monkeypatch):
    from kdnb.studies import engine

    monkeypatch.setattr(engine, "sees_folder", lambda client, folder: False)
    study = small_study(str(pictures), seeds=(10,), search={})
    assert len(list(run_study(study, tmp_path / "study", client))) == 3
    progress = Progress(study, tmp_path / "study")
    [(_, spec)] = progress.reported(study.arms["kd"])
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / spec.teacher).symlink_to(tmp_path / "study" / spec.teacher)
    assert_same_result(tmp_path / "study" / spec.name, expected(spec, tmp_path / "alone"))


def test_a_stopped_study_goes_on(client, pictures, tmp_path):
    search = {"seeds": [0], "values": {"lr": [0.01, 0.1]}}
    study = small_study(
        str(pictures), seeds=(10,), search=search, arms=arms("labels only", "again", epochs=1)
    )
    with closing(run_study(study, tmp_path, client)) as events:
        next(events)
    finished = len(list(tmp_path.glob("*/run.json")))
    assert 1 <= finished < 3
    list(run_study(study, tmp_path, client))
    assert len(list(tmp_path.glob("*/run.json"))) == 3


def test_a_run_that_nobody_waits_for_stops_after_an_epoch(client, pictures, tmp_path):
    """Dask cannot stop a task that runs: the run looks itself, and keeps the epoch."""
    both = arms("labels only", "again", epochs=400)
    study = small_study(str(pictures), seeds=(10,), search={}, arms=both, evaluate_every=400)
    spec = study.arms["again"].run({}, 10, None)
    folder, stopped = tmp_path / spec.name, threading.Event()

    def stop() -> None:
        wait_until((folder / "state.json").exists)
        [key] = [key for keys in client.processing().values() for key in keys]
        client.cancel([Future(key, client)], force=True)
        stopped.set()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(InputError, match="somebody has cancelled the runs"):
        list(run_study(study, tmp_path, client))
    thread.join()
    assert stopped.is_set()
    with FileLock(tmp_path / f".{spec.name}.lock", timeout=60):  # the worker has left the run
        assert not (folder / "run.json").exists()
        assert (folder / "state.json").exists()


def test_only_one_worker_is_at_a_run(tmp_path, monkeypatch):
    """While a run is trained, nobody else gets its lock."""
    from kdnb.studies import engine

    spec = Spec("labels-only")
    locked = []

    def trained(found: Spec, *, out: Path, **_: object) -> None:
        with pytest.raises(Timeout):
            FileLock(out / f".{found.name}.lock").acquire(timeout=0)
        locked.append(found)

    monkeypatch.setattr(engine, "run", trained)
    monkeypatch.setattr(engine, "_loaded", lambda task: SimpleNamespace(of=lambda spec: None))
    engine._train(tmp_path, engine.Task(spec, 1, None, None, facts()))
    assert locked == [spec]
    with FileLock(tmp_path / f".{spec.name}.lock", timeout=0):
        pass


def test_a_teacher_file_of_the_user_is_not_sent_as_a_run(client, pictures, tmp_path, monkeypatch):
    """A worker without the folder is given the networks of runs; other files it must see itself."""
    from kdnb.studies import engine

    monkeypatch.setattr(engine, "sees_folder", lambda client, folder: False)
    teacher = expected(
        Spec("labels-only", data=str(pictures), size=8, pad=1, epochs=1), tmp_path / "elsewhere"
    )
    before = {path: path.stat().st_mtime_ns for path in teacher.iterdir()}
    kd = {"kd": {"method": "kd", "teacher": str(teacher)}}
    study = small_study(str(pictures), seeds=(10,), search={}, arms=arms("labels only") | kd)
    assert all(isinstance(e.outcome, Finished) for e in run_study(study, tmp_path / "study", client))
    assert {path: path.stat().st_mtime_ns for path in teacher.iterdir()} == before


def test_the_workers_of_a_running_cluster_are_used(client):
    with foreign_workers(client.scheduler.address) as other:
        assert len(other.run(facts)) == 2


def test_workers_of_another_version_are_refused(client, monkeypatch):
    monkeypatch.setattr(clusters, "__version__", "0.0.1")
    with (
        pytest.raises(InputError, match=r"has kdnb .*, here it is 0\.0\.1"),
        foreign_workers(client.scheduler.address),
    ):
        pass


def test_a_task_refuses_to_run_under_another_version(client, pictures, tmp_path, monkeypatch):
    """A worker that joins later is not seen at the start."""
    from kdnb.studies import engine

    monkeypatch.setattr(engine, "facts", lambda: facts() | {"torch": "0.1"})
    study = small_study(str(pictures), seeds=(10,), search={}, arms=arms("labels only", "again"))
    [event] = run_study(study, tmp_path, client)
    assert "The worker at the study has torch 0.1" in event.outcome.message


def test_all_workers_of_this_machine_see_a_folder(client, tmp_path):
    assert sees_folder(client, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_full_disk_stops_the_study(client, pictures, tmp_path, monkeypatch):
    from kdnb.studies import progress as progresses

    def full(path, content):
        raise InputError(f"Could not write {path}: No space left on device.")

    monkeypatch.setattr(progresses, "write_whole", full)
    study = small_study("/no/such/folder", seeds=(10,), search={}, arms=arms("labels only", "again"))
    with pytest.raises(InputError, match="No space left"):
        list(run_study(study, tmp_path, client))
