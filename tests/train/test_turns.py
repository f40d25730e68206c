"""Trainings side by side compute in turn. Nothing here is timed: the clock is the test's own."""

import multiprocessing
import threading

import pytest
from filelock import FileLock

from kdnb.train import turns
from kdnb.train.turns import TURN, in_turns, turn_taker


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def is_free(folder) -> bool:
    """Whether nobody computes."""
    lock = FileLock(folder / "running")
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return False
    lock.release()
    return True


def test_whoever_computes_holds_the_lock(tmp_path):
    with turn_taker(tmp_path):
        assert not is_free(tmp_path)
    assert is_free(tmp_path)


def test_an_exception_gives_the_turn_away(tmp_path):
    with pytest.raises(KeyboardInterrupt), turn_taker(tmp_path):
        raise KeyboardInterrupt
    assert is_free(tmp_path)


def test_break_gives_the_turn_away(tmp_path):
    for _ in in_turns("ab", tmp_path):
        assert not is_free(tmp_path)
        break
    assert is_free(tmp_path)


def test_a_turn_is_kept_until_its_time_is_up(tmp_path, monkeypatch):
    """Another training that waits gets its turn then, and not before."""
    monkeypatch.setattr(turns, "PATIENCE", 60)
    clock, order, wants = Clock(), [], threading.Event()

    def other() -> None:
        waiting = FileLock(tmp_path / "next")
        with waiting.acquire(60, 0.0005):
            wants.set()
            with FileLock(tmp_path / "running").acquire(60, 0.0005):
                order.append("other")

    with turn_taker(tmp_path, clock) as between_steps:
        thread = threading.Thread(target=other)
        thread.start()
        assert wants.wait(60)
        order.append("first")
        clock.now = TURN
        between_steps()
        order.append("still first")
        clock.now = 2 * TURN
        between_steps()  # the other waits already, so it is next
        order.append("first again")
        thread.join(60)
    assert order == ["first", "still first", "other", "first again"]


def test_without_a_turn_in_time_the_block_computes_all_the_same(tmp_path, monkeypatch):
    """The other training may have been suspended in the middle of a step."""
    monkeypatch.setattr(turns, "PATIENCE", 0.01)
    with FileLock(tmp_path / "running"):
        assert list(in_turns(range(3), tmp_path)) == [0, 1, 2]
        assert not is_free(tmp_path)
    assert is_free(tmp_path)


def test_a_folder_that_cannot_be_made_is_no_reason_not_to_train(tmp_path):
    (tmp_path / "file").write_text("")
    assert list(in_turns(range(3), tmp_path / "file" / "folder")) == [0, 1, 2]


def _hold(folder, ready) -> None:
    with turn_taker(folder):
        ready.set()
        threading.Event().wait()


@pytest.mark.slow
def test_a_killed_training_holds_nobody_up(tmp_path):
    fresh = multiprocessing.get_context("spawn")
    ready = fresh.Event()
    process = fresh.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    try:
        assert ready.wait(120)
        assert not is_free(tmp_path)
    finally:
        process.kill()
        process.join()
    assert is_free(tmp_path)
