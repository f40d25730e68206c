"""``kdnb study`` as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdnb.commands.cli import main

STUDY = """
title = "Small"
question = "Does it run?"
baseline = "labels only"
seeds = [10, 11]
[all]
data = "{data}"
size = 8
pad = 1
epochs = 1
batch_size = 8
[search]
seeds = [0]
values = {{lr = [0.01, 0.1]}}
[arms."labels only"]
method = "labels-only"
[arms.kd]
method = "kd"
teacher_arm = "labels only"
"""


@pytest.fixture
def file(pictures, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(STUDY.format(data=pictures))
    return path


def kdnb(*words: str):
    return CliRunner().invoke(main, ["study", *words], catch_exceptions=False)


def test_a_dry_run_tells_what_it_would_take(file):
    done = kdnb("run", "small.toml", "--dry-run", "--workers", "2")
    assert done.exit_code == 0, done.output
    assert "Small: at most 8 runs" in done.stderr
    assert "  kd             2 in the search + 2 reported, about " in done.stderr
    assert "with 2 workers." in done.stderr
    assert not Path("runs").exists()


def test_a_typo_is_one_line(file):
    file.write_text(file.read_text().replace('method = "kd"', 'method = "kdd"'))
    done = kdnb("run", "small.toml")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "Arm 'kd': Unknown method 'kdd'. Did you mean 'kd'?" in done.stderr


def test_an_arm_that_cannot_be_built_is_named_before_anything_runs(file):
    arm = '[arms.semckd]\nmethod = "semckd"\nteacher = "nowhere.safetensors"\n'
    file.write_text(file.read_text() + arm)
    done = kdnb("run", "small.toml")
    assert done.exit_code == 2
    assert (
        "Arm 'semckd' cannot be built or run: There is no network file at nowhere.safetensors" in done.stderr
    )


def test_an_unfinished_study_is_shown_and_reported(file):
    done = kdnb("show", "small.toml")
    assert "labels only  search 0 of 2; report 0 of 2" in done.output
    done = kdnb("report", "small.toml", "--to", "report")
    assert done.exit_code == 0
    assert "kd: 2 of 2 reported runs are missing." in Path("report/report.md").read_text()


@pytest.mark.slow
def test_a_study_runs_from_the_command_line(file, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "kdnb.commands.cli", "study", "run", "small.toml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Dashboard: http://127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr
    assert "[8 ended, 0 to go]" in done.stderr
    assert done.stdout.startswith("# Small")
    assert len(list(tmp_path.glob("runs/small/*/run.json"))) == 8
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/small/kd-*/run.json")]
    assert {record["teacher"] for record in records} != {None}
    shown = kdnb("show", "small.toml")
    assert "kd           search 2 of 2; report 2 of 2  chose lr=0." in shown.output
