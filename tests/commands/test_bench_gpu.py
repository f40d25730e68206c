"""``kdnb bench gpu``: its arithmetic, and what it says where there is no GPU."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from torch.autograd import DeviceType

from kdnb.commands.bench import gpu, timing
from kdnb.commands.bench.steps import table
from kdnb.commands.cli import main
from kdnb.train import train


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(main, ["bench", "gpu"])
    assert done.exit_code == 2
    assert (
        done.output == "kdnb: kdnb bench gpu needs a GPU with CUDA, and torch finds none on this machine.\n"
    )


def test_a_row_is_for_cifar_whatever_was_measured():
    found = gpu.row("resnet8", "graph", 25_000, gpu.Measured(seconds=3.0, busy=1.5, steps=150))
    assert found == {
        "case": "resnet8, graph",
        "ms": pytest.approx(20),
        "busy_share": pytest.approx(0.5),
        "epochs_per_second": pytest.approx(1 / 6),
        "hours_for_240": pytest.approx(0.4),
        "hours_for_300": pytest.approx(0.5),
    }
    header, _, values = table([found]).splitlines()
    assert "busy_%" in header
    assert "50.0" in values


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], 0),
        ([(1, 3)], 2),
        ([(5, 6), (1, 3)], 3),
        ([(1, 4), (2, 3)], 3),
        ([(1, 4), (3, 6), (6, 7)], 6),
        ([(1, 4), (1, 4)], 3),
    ],
)
def test_kernels_side_by_side_count_once(spans, expected):
    assert gpu.busy_seconds(spans) == pytest.approx(expected / 1e6)


def test_every_case_is_measured_in_every_mode(monkeypatch):
    asked = []

    def measure(case, batch_size, images, **options):
        asked.append((case, batch_size, images, options))
        return gpu.Measured(1.0, 0.5, 10)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "_measure", measure)
    rows = list(gpu.gpu_steps())
    assert [row["case"] for row in rows[:3]] == ["resnet8, eager", "resnet8, graph", "resnet8, compile"]
    assert len(rows) == 3 * len(gpu.CASES)
    assert asked[1] == ("resnet8", 128, 50_000, {"graph": True})


class Profile:
    """A profiler that saw two kernels side by side on the GPU, and Python at work."""

    def __init__(self, activities):
        assert activities == [torch.profiler.ProfilerActivity.CUDA]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def events(self):
        seen = [(DeviceType.CUDA, 10, 40), (DeviceType.CUDA, 30, 60), (DeviceType.CPU, 0, 1000)]
        return [
            SimpleNamespace(device_type=kind, time_range=SimpleNamespace(start=start, end=end))
            for kind, start, end in seen
        ]


@pytest.mark.parametrize(("case", "batch_size"), [("resnet8", 8), ("semckd", 4), ("ffsd", 4)])
def test_the_measured_epochs_are_those_of_train(monkeypatch, case, batch_size):
    """On a CPU, with a profiler that is none, and with the options of a plain training."""
    monkeypatch.setattr(
        gpu, "train", lambda method, batches, **options: train(method, batches, **options | {"device": "cpu"})
    )
    monkeypatch.setattr(gpu, "profile", Profile)
    monkeypatch.setattr(timing, "perf_counter", map(float, count()).__next__)  # a second at every look
    measured = gpu._measure(case, batch_size, batch_size + 1)
    assert measured.steps == 1, "the incomplete batch is left out"
    assert measured.seconds == 1
    assert measured.busy == pytest.approx(50e-6)
