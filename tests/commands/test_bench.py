"""Speed is measured on every machine; that the numbers are numbers is tested here."""

from math import isfinite

import pytest
import torch

from kdnb.commands.bench.busy import busy_steps
from kdnb.commands.bench.steps import distillation_steps, group_steps, joint_steps, table, training_steps
from kdnb.commands.bench.timing import matmul_rate

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


@pytest.fixture(scope="module")
def rows() -> list[dict[str, float | str]]:
    return list(training_steps(("resnet8",), batch_size=4, steps=1, rounds=2, device="cpu"))


def test_a_row_has_the_documented_columns(rows):
    [row] = rows
    assert list(row) == KEYS
    assert row["network"] == "resnet8"
    assert all(isfinite(row[key]) and row[key] > 0 for key in KEYS[1:])
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


def test_the_table_shows_shares_in_percent_and_leaves_the_rows(rows):
    row = {"network": "resnet8", "ms": 1.5, "matmul_share": 0.25, "loading_share": 0.5}
    header, _, values = table([row]).splitlines()
    assert header.split() == ["ms", "matmul_%", "loading_%"]
    assert values.split() == ["resnet8", "1.5", "25.0", "50.0"]
    assert row["matmul_share"] == 0.25
    assert "resnet8" in table(rows)


def test_a_row_comes_as_soon_as_it_is_measured():
    found = training_steps(("resnet8", "unknown"), batch_size=2, steps=1, rounds=1, device="cpu")
    assert next(found)["network"] == "resnet8"


def test_measuring_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    assert matmul_rate(torch.device("cpu"), False, size=64) > 0
    list(training_steps(("resnet8",), batch_size=2, steps=1, rounds=1, device="cpu"))
    networks = {"student": "resnet8", "teacher": "resnet8", "batch_size": 4, "steps": 1, "rounds": 1}
    list(distillation_steps(("srrl", "semckd"), **networks, device="cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_method_is_timed_against_its_student_and_its_parts():
    networks = {"student": "resnet8", "teacher": "resnet14", "batch_size": 4, "steps": 1, "rounds": 2}
    srrl, semckd = distillation_steps(("srrl", "semckd"), **networks, device="cpu")
    assert [srrl["method"], semckd["method"]] == ["srrl", "semckd"]
    for row in (srrl, semckd):
        assert row["multiple_low"] <= row["multiple"] <= row["multiple_high"]
        assert row["ms"] > 0
        assert row["over_parts"] > 0
    assert "over_parts" in table([srrl, semckd])


def test_networks_trained_as_one_are_timed_against_each_alone():
    small = {"student": "resnet8", "deep": "resnet20", "depths": (14, 8)}
    rows = list(joint_steps(**small, batch_size=4, steps=1, rounds=2, device="cpu"))
    assert [row["method"] for row in rows] == ["ecd", "ddnn, private", "ddnn, shared"]
    for row in rows:
        assert row["multiple_low"] <= row["multiple"] <= row["multiple_high"]
        assert row["over_parts"] > 0
        assert row["memory"] > 1


def test_a_group_is_timed_against_one_of_its_networks():
    rows = list(group_steps(network="resnet8", batch_size=4, steps=1, rounds=2, device="cpu"))
    assert [row["method"] for row in rows] == ["dml", "ffsd"]
    for row in rows:
        assert row["multiple_low"] <= row["multiple"] <= row["multiple_high"]
        assert row["over_parts"] > 0


def test_a_busy_neighbour_of_either_kind_has_a_row():
    rows = list(busy_steps(batch_size=2, steps=1, rounds=1))
    assert [row.pop("neighbour") for row in rows] == ["same session", "own session"]
    for row in rows:
        assert all(isfinite(number) and number > 0 for number in row.values())
        assert row["multiple_low"] <= row["multiple"] <= row["multiple_high"]
