"""``kdnb bench data`` and ``memory``: small folders, by a clock of our own."""

import sys
from itertools import count

import pytest
from click.testing import CliRunner
from PIL import Image

from kdnb.commands.bench import data, memory, timing
from kdnb.commands.bench.data import data_speed, make_folder
from kdnb.commands.bench.memory import memory_rows
from kdnb.commands.cli import main
from kdnb.datasets import streaming


def test_a_folder_grows_to_the_number_asked_for(tmp_path):
    make_folder(tmp_path, 12, side=16)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.jpg")}
    make_folder(tmp_path, 25, first=12, side=16)
    files = list(tmp_path.rglob("*.jpg"))
    assert (len(before), len(files)) == (12, 25)
    assert {file.parent.name for file in files} == {f"class{number}" for number in range(10)}
    assert all(file.read_bytes() == content for file, content in before.items())
    assert Image.open(files[0]).size == (16, 16)
    assert len(set(before.values())) == 12


def test_rates_are_pictures_by_seconds(monkeypatch):
    """Every epoch takes one second. Of 100 pictures 70 train; torchvision reads all, and so does decoding."""
    monkeypatch.setattr(timing, "perf_counter", map(float, count()).__next__)
    for module in (data, streaming):
        monkeypatch.setattr(module, "cores", lambda: 0)
    rows = {row["loader"]: row for row in data_speed(pictures=100, rounds=2, side=16)}
    assert [name.split(",")[0] for name in rows] == ["stream", "cache", "decoding"]
    for name, row in rows.items():
        assert row["per_second"] == (100 if name.startswith("decoding") else 70)
        assert row["torchvision"] == 100
        assert row["times"] == row["times_low"] == row["times_high"] == row["per_second"] / 100


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the kinds of pages apart")
def test_decoded_pictures_are_counted_where_they_lie(monkeypatch):
    """8,000 pictures of 64 pixels take 98.3 MB, several times what batches and threads take."""
    monkeypatch.setattr(memory, "WAYS", {way: memory.WAYS[way] for way in ("memory", "cache")})
    held, cached = memory_rows([8000], side=16)
    assert held["held"] == "memory, 8000 of 64 pixels"
    assert held["set_mb"] == cached["set_mb"] == pytest.approx(98.3, abs=0.1)
    assert held["own_mb"] > cached["own_mb"] + 60
    assert cached["mapped_mb"] > held["mapped_mb"] + 80


def test_another_system_is_told(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    done = CliRunner().invoke(main, ["bench", "memory"])
    assert done.exit_code == 2
    assert "this is another system" in done.stderr


@pytest.mark.parametrize("words", ["", "some", "10", "100,x"])
def test_numbers_of_pictures_that_make_no_sense_are_refused(words):
    done = CliRunner().invoke(main, ["bench", "memory", "--pictures", words])
    assert done.exit_code == 2
    assert "is not a list of numbers from 40 on" in done.stderr
