"""Speed is measured on every machine; how a row is made of times is tested here, by clocks of our own."""

from functools import partial
from itertools import accumulate, count
from math import isfinite

import pytest
import torch

from kdnb.commands.bench import steps, timing
from kdnb.commands.bench.busy import busy_steps
from kdnb.commands.bench.crd import contrast_steps
from kdnb.commands.bench.steps import distillation_steps, group_steps, joint_steps, table, training_steps
from kdnb.commands.bench.studies import study_runs
from kdnb.commands.bench.timing import matmul_rate
from kdnb.networks import build, cost

KEYS = [
    "network",
    "ms",
    "fp32_ms",
    "ratio",
    "ratio_low",
    "ratio_high",
    "matmul_share",
    "loading_share",
]


@pytest.fixture(autouse=True)
def a_second_each(monkeypatch):
    """Whatever is measured takes one second; the matrix product beside it is a small one."""
    monkeypatch.setattr(timing, "perf_counter", map(float, count()).__next__)
    monkeypatch.setattr(steps, "matmul_rate", partial(matmul_rate, size=64))


def one_row() -> dict[str, float | str]:
    [row] = training_steps(("resnet8",), batch_size=4, steps=1, rounds=2, device="cpu")
    return row


def test_a_row_has_the_documented_columns():
    row = one_row()
    assert list(row) == KEYS
    assert row["network"] == "resnet8"
    assert row["ms"] == row["fp32_ms"] == 1000
    assert row["ratio_low"] == row["ratio"] == row["ratio_high"] == row["loading_share"] == 1
    operations = 6 * cost(build("resnet8", classes=100)).macs * 4  # forward and backward, of 4 images
    assert row["matmul_share"] == pytest.approx(operations / (2 * 64**3))


def test_a_ratio_lies_between_those_of_the_rounds(monkeypatch):
    monkeypatch.setattr(timing, "perf_counter", map(float, accumulate(count())).__next__)  # ever slower
    row = one_row()
    assert row["ratio_low"] < row["ratio"] < row["ratio_high"]


def test_the_table_shows_shares_in_percent_and_leaves_the_rows():
    row = {"network": "resnet8", "ms": 1.5, "matmul_share": 0.25, "loading_share": 0.5}
    header, _, values = table([row]).splitlines()
    assert header.split() == ["ms", "matmul_%", "loading_%"]
    assert values.split() == ["resnet8", "1.5", "25.0", "50.0"]
    assert row["matmul_share"] == 0.25


def test_a_row_comes_as_soon_as_it_is_measured():
    found = training_steps(("resnet8", "unknown"), batch_size=2, steps=1, rounds=1, device="cpu")
    assert next(found)["network"] == "resnet8"


def test_measuring_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    assert matmul_rate(torch.device("cpu"), False, size=64) == 2 * 64**3
    list(training_steps(("resnet8",), batch_size=2, steps=1, rounds=1, device="cpu"))
    networks = {"student": "resnet8", "teacher": "resnet8", "batch_size": 4, "steps": 1, "rounds": 1}
    list(distillation_steps(("srrl", "semckd"), **networks, device="cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def check_rows(rows: list[dict[str, float | str]], networks: list[int]) -> None:
    """Each of a method that is held against so many steps or passes of single networks."""
    for row, number in zip(rows, networks, strict=True):
        assert row["ms"] == row["fp32_ms"] == 1000
        assert row["multiple_low"] == row["multiple"] == row["multiple_high"] == 1
        assert row["over_parts"] == 1 / number


def test_a_method_is_timed_against_its_student_and_its_parts():
    networks = {"student": "resnet8", "teacher": "resnet14", "batch_size": 4, "steps": 1, "rounds": 2}
    rows = list(distillation_steps(("srrl", "semckd"), **networks, device="cpu"))
    assert [row["method"] for row in rows] == ["srrl", "semckd"]
    check_rows(rows, [2, 2])
    assert "over_parts" in table(rows)


def test_networks_trained_as_one_are_timed_against_each_alone():
    small = {"student": "resnet8", "deep": "resnet20", "depths": (14, 8)}
    rows = list(joint_steps(**small, batch_size=4, steps=1, rounds=2, device="cpu"))
    assert [row["method"] for row in rows] == ["ecd", "ddnn, private", "ddnn, shared"]
    check_rows(rows, [2, 3, 3])
    assert all(row["memory"] > 1 for row in rows)


def test_a_group_is_timed_against_one_of_its_networks():
    rows = list(group_steps(network="resnet8", batch_size=4, steps=1, rounds=2, device="cpu"))
    assert [row["method"] for row in rows] == ["dml", "ffsd"]
    check_rows(rows, [2, 3])


@pytest.mark.slow
def test_a_neighbour_of_each_kind_has_a_row():
    rows = list(busy_steps(batch_size=2, steps=1, rounds=1))
    assert [row.pop("neighbour") for row in rows] == ["same session", "own session", "training"]
    for row in rows:
        assert all(isfinite(number) and number > 0 for number in row.values())
        assert row["multiple_low"] <= row["multiple"] <= row["multiple_high"]


def test_crd_is_timed_against_kd():
    small = {"student": "resnet8", "teacher": "resnet8", "images": 200, "negatives": 50, "batch_size": 4}
    [row] = contrast_steps(**small, steps=1, rounds=2, device="cpu")
    assert row.pop("method") == "crd, 50 of 200"
    assert all(isfinite(number) and number > 0 for number in row.values())
    assert row["over_kd_low"] <= row["over_kd"] <= row["over_kd_high"]


@pytest.mark.slow
def test_a_study_is_timed_against_a_shell_loop(pictures):
    about = {"data": str(pictures), "labels": 0, "epochs": 60, "seeds": 1, "kills": 1}
    rows = list(study_runs(**about))
    assert [row["way"] for row in rows] == ["shell loop", "study", "study, killed"]
    assert [(row["runs"], row["lost"]) for row in rows] == [(2, 0)] * 3
    assert rows[-1]["other_bits"] == 0
    assert all(isfinite(row["overhead_s"]) and row["runs_an_hour"] > 0 for row in rows)
