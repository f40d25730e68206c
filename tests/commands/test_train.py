"""``kdnb train`` and ``kdnb bench`` as typed: what is printed where, and exit codes."""

import json
import re
import subprocess
import sys
from dataclasses import Field, asdict, fields, replace
from signal import SIGINT, default_int_handler, getsignal, signal

import click
import pytest
from click.testing import CliRunner
from small_runs import assert_same_result, words_of

from kdnb.commands.bench import busy, crd, steps
from kdnb.commands.cli import main
from kdnb.errors import InputError
from kdnb.paths import PROJECT
from kdnb.runs import records, running
from kdnb.runs import spec as spec_module
from kdnb.runs.checkpoints import load_network, load_state
from kdnb.runs.spec import Spec


def kdnb(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def train(spec: Spec, out, *more: object):
    return kdnb("train", *words_of(spec, out), *more)


def test_training_prints_progress_and_three_accuracies(spec, whole, tmp_path):
    result = train(spec, tmp_path)
    assert result.exit_code == 0
    assert_same_result(tmp_path / spec.name, whole)
    lines = result.stderr.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all("student/label" in line and "test/student" in line for line in lines)
    last, learner = result.stdout.splitlines()
    metrics = records.read(whole).metrics["student"]
    assert last.startswith(f"{tmp_path / spec.name}  (")
    for name in ("last", "selected", "best"):
        assert f"{metrics[name]:.2f} %" in learner


def test_a_small_budget_reads_from_a_cache_and_says_so(spec, whole, tmp_path):
    result = train(spec, tmp_path, "--memory", "1kB", "--data-root", tmp_path / "root")
    assert result.exit_code == 0
    assert_same_result(tmp_path / spec.name, whole)
    assert "read from a cache on disk, because they exceed --memory" in result.stdout


def test_streaming_is_told(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("kdnb.datasets.folder.STREAMED", 8)
    result = train(replace(spec, epochs=1), tmp_path)
    assert result.exit_code == 0
    assert "streamed: decoded anew in every epoch, as random resized crops" in result.stdout


def test_json_is_one_document_on_stdout_also_for_a_finished_run(spec, whole, tmp_path):
    first = train(spec, tmp_path, "--json")
    record = json.loads(first.stdout)
    assert record == asdict(records.read(tmp_path / spec.name))
    assert first.stderr.count("epoch") == 3
    again = train(spec, tmp_path, "--json")
    assert json.loads(again.stdout) == record
    assert again.stderr.startswith("Already finished: ")
    assert again.stderr.count("\n") == 1
    repeated = train(spec, tmp_path, "--json", "--force")
    assert repeated.stderr.count("epoch") == 3
    assert json.loads(repeated.stdout)["student"] == record["student"] == records.read(whole).student


def test_options_of_the_method_reach_it(spec, whole, tmp_path):
    arguments = ["train", "kd", "--teacher", whole, *words_of(spec, tmp_path)[1:], "--json"]
    options = ["-o", "temperature=2", "-o", "soft_weight=0.5"]
    record = json.loads(kdnb(*arguments, *options).stdout)
    assert record["spec"]["options"] == {"temperature": 2.0, "soft_weight": 0.5}
    assert record["student"] != json.loads(kdnb(*arguments).stdout)["student"]


def test_ecds_teacher_trains_alone_and_then_teaches(spec, tmp_path):
    """What ECD is compared with: distilling from a teacher of the same structure, trained on its own."""
    words = [*words_of(replace(spec, epochs=1), tmp_path), "--json"]
    alone = replace(spec, student="resnet8-dynamic", epochs=1)
    trained = json.loads(kdnb("train", *words, "--student", alone.student).stdout)
    assert load_network(tmp_path / alone.name).name == "resnet8-dynamic"
    taught = kdnb("train", "kd", *words[1:], "--teacher", tmp_path / alone.name)
    assert json.loads(taught.stdout)["teacher"] == trained["student"]


def settings() -> list[Field]:
    return [setting for setting in fields(Spec) if setting.name not in ("method", "options")]


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.name)
def test_every_setting_is_an_option_with_its_default_and_its_help(setting):
    context = click.Context(main.commands["train"])
    [option] = [o for o in context.command.get_params(context) if o.name == setting.name]
    assert f"--{setting.name.replace('_', '-')}" in option.opts
    assert option.get_default(context) == setting.default
    assert option.help == setting.metadata["help"]


def test_help_says_where_a_default_is_the_methods_own():
    lines = " ".join(kdnb("train", "--help").stdout.split())
    for option in ("student TEXT", "weight-decay FLOAT", "momentum FLOAT", "no-nesterov", "schedule TEXT"):
        assert re.search(rf"--{option} [^\[]*\[default: \(the method's own\)\]", lines), option
    assert "--epochs INTEGER Epochs of training. [default: 40]" in lines


def test_only_what_the_user_gave_reaches_the_spec(monkeypatch):
    given = []

    def watched(**settings):
        given.append(settings)
        raise InputError("that is enough")

    assert main.commands["train"].settings, "they are read from the real Spec, and kept"
    monkeypatch.setattr(spec_module, "Spec", watched)
    assert kdnb("train", "kd").exit_code == 2
    kdnb("train", "kd", "--epochs", 40, "--no-nesterov")
    assert given == [{"method": "kd"}, {"method": "kd", "epochs": 40, "nesterov": False}]


def test_ffsd_trains_with_its_own_weight_decay_unless_told_another(spec, tmp_path):
    words = ["train", "ffsd", *words_of(replace(spec, epochs=1), tmp_path)[1:], "--json"]
    own, same, other = (
        json.loads(kdnb(*words, *more).stdout)
        for more in ([], ["--weight-decay", "1e-4"], ["--weight-decay", "5e-4"])
    )
    assert own["spec"]["weight_decay"] == 1e-4
    assert (own["spec"]["momentum"], own["spec"]["nesterov"], own["spec"]["schedule"]) == (
        0.9,
        True,
        "cosine",
    )
    assert same == own, "it is the same run"
    assert other["spec"]["weight_decay"] == 5e-4
    assert other["student"] != own["student"]


def test_runs_under_the_old_rule_still_tell_their_weight_decay(spec, tmp_path):
    """The first edition replaced FFSD's own weight decay by 5e-4, and its records say so."""
    table = records.table(PROJECT / "data" / "records" / "ffsd")
    assert set(table["weight_decay"]) == {5e-4}
    assert "ffsd" in set(table["method"])


def test_ddnn_trains_with_its_default_student(spec, tmp_path):
    words = words_of(replace(spec, epochs=1), tmp_path)[1:]
    result = kdnb("train", "ddnn", *words, "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["spec"]["student"] == "resnet20"
    assert set(record["metrics"]) == {"full", "depth14", "depth8"}


BAD_WORDS = [
    (["labels-onyl"], "Unknown method 'labels-onyl'. Did you mean 'labels-only'?"),
    (["labels-only", "--student", "resnet9"], "Unknown network 'resnet9'"),
    (["labels-only", "--data", "cifar11"], "Did you mean 'cifar10'?"),
    (["labels-only", "--data", "no/such/folder"], "There is nothing at no/such/folder"),
    (["labels-only", "--schedule", "cosin"], "Unknown schedule 'cosin'. Did you mean 'cosine'?"),
    (["labels-only", "--precision", "fp16"], "Unknown precision 'fp16'"),
    (["labels-only", "--padding", "none"], "Unknown padding 'none'"),
    (["labels-only", "--epochs", "0"], "epochs must be at least 1, found 0"),
    (["labels-only", "--batch-size", "0"], "batch_size must be at least 1, found 0"),
    (["labels-only", "--labels", "-1"], "labels must be at least 0, found -1"),
    (["labels-only", "--labels", "1"], "1 images cannot show 2 classes"),
    (["labels-only", "--pad", "8"], "pad must be between 0 and 7"),
    (["labels-only", "--size", "4"], "size must be at least 8 pixels, found 4"),
    (["labels-only", "--validation", "1"], "validation must be a share between 0 and 1"),
    (["labels-only", "--lr", "nan"], "lr must be above 0, found nan"),
    (["labels-only", "--lr", "-1"], "lr must be above 0, found -1.0"),
    (["labels-only", "--lr", "0"], "lr must be above 0, found 0.0"),
    (["labels-only", "--lr", "fast"], "'fast' is not a valid float"),
    (["labels-only", "--epochs", "1.5"], "'1.5' is not a valid integer"),
    (["labels-only", "-o", "temperature=2"], "Unknown option of labels-only 'temperature'"),
    (["kd", "-o", "temprature=2"], "Did you mean 'temperature'?"),
    (["kd", "-o", "temperature"], "An option is given as name=value, found 'temperature'"),
    (["kd", "-o", "temperature=warm"], "temperature is a float, found 'warm'"),
    (["kd", "-o", "temperature=0"], "temperature must be a finite number above 0, found 0.0"),
    (["kd", "-o", "temperature=-1"], "temperature must be a finite number above 0, found -1.0"),
    (["kd", "-o", "temperature=nan"], "temperature must be a finite number, found nan"),
    (["labels-only", "--weight-decay", "-1"], "weight_decay must be at least 0, found -1.0"),
    (["labels-only", "--momentum", "nan"], "momentum must be at least 0, found nan"),
    (["kd", "-o", "soft_weight=-1"], "soft_weight must be a finite number, 0 or more"),
    (["labels-only", "--memory", "2 gigs"], "written like 500M, 2G or 1.5GiB; found '2 gigs'"),
    (["labels-only", "--memory", "-1"], "written like 500M, 2G or 1.5GiB; found '-1'"),
    (["kd", "--teacher", "nowhere"], "There is no network file at nowhere"),
]


@pytest.mark.parametrize(("words", "message"), BAD_WORDS, ids=[" ".join(words) for words, _ in BAD_WORDS])
def test_bad_input_ends_with_its_message_and_2_and_writes_nothing(
    spec, whole, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    given = ["train", *words, "--out", "out"]
    if "--data" not in words:
        given += ["--data", spec.data]
    if "--size" not in words:
        given += ["--size", "8"]
    if "--pad" not in words:
        given += ["--pad", "1"]
    if words[0] == "kd" and "--teacher" not in words:
        given += ["--teacher", str(whole)]
    result = kdnb(*given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_no_method_ends_with_usage_and_2():
    result = kdnb("train")
    assert result.exit_code == 2
    assert "Missing argument 'METHOD'" in result.stderr


def test_a_file_in_the_place_of_the_folder_is_found_before_training(spec, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = train(spec, tmp_path / "file")
    assert result.exit_code == 2
    assert result.stderr.startswith("kdnb: Could not write")
    assert result.stderr.count("\n") == 1, "no epoch was trained"
    assert (tmp_path / "file").read_text() == "kept"


def test_training_that_diverges_ends_with_one_line(spec, tmp_path):
    result = train(spec, tmp_path, "--lr", "1e30")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("kdnb: ")
    assert "is not finite" in result.stderr
    assert "Lower lr" in result.stderr
    assert not list(tmp_path.rglob("run.json"))


def test_an_interrupted_run_is_named_and_resumed(spec, whole, tmp_path, monkeypatch):
    evaluate, calls = running.evaluate, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # after the second epoch, before its state is kept
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(running, "evaluate", interrupted)
    stopped = train(spec, tmp_path)
    assert stopped.exit_code == 130
    assert f"kept in {tmp_path / spec.name}" in stopped.stderr
    assert "--resume" in stopped.stderr

    refused = train(spec, tmp_path)
    assert refused.exit_code == 2
    assert "holds an interrupted run (1 of 3 epochs)" in refused.stderr
    resumed = train(spec, tmp_path, "--resume")
    assert resumed.exit_code == 0
    assert "epoch 1/3" not in resumed.stderr
    assert_same_result(tmp_path / spec.name, whole)


def test_interrupted_before_the_first_epoch_it_promises_nothing(spec, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "evaluate", interrupted)
    stopped = train(spec, tmp_path)
    assert stopped.exit_code == 130
    assert stopped.stderr == "Stopped before the first epoch was finished: nothing is kept.\n"


def test_a_process_that_does_not_lead_says_nothing(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = train(spec, tmp_path, "--json")
    assert (result.exit_code, result.output) == (0, "")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def heeds_ctrl_c():
    """What is started by a shell in the background ignores SIGINT, and so do its children."""
    before = getsignal(SIGINT)
    signal(SIGINT, default_int_handler)
    yield
    signal(SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_keeps_the_last_epoch_and_the_same_command_goes_on(spec, tmp_path):
    words = [*words_of(spec, tmp_path), "--epochs", "60"]
    command = [sys.executable, "-m", "kdnb.commands.cli", "train", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stderr.readline().startswith("epoch 1/60")
        process.send_signal(SIGINT)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "--resume" in stderr.splitlines()[-1]
    [folder] = (path for path in tmp_path.iterdir())
    assert 1 <= len(load_state(folder)["history"]) < 60

    assert kdnb("train", *words, "--resume").exit_code == 0
    assert kdnb("train", *words[:-1], "60", "--out", tmp_path / "whole").exit_code == 0
    assert_same_result(folder, tmp_path / "whole" / folder.name)


ROW = {"network": "resnet8", "ms": 1.0, "ratio": 2.0, "matmul_share": 0.25, "loading_share": 0.5}


def test_bench_prints_a_table_or_a_json_line_a_network(monkeypatch):
    asked = []

    def rows(**options):
        asked.append(options)
        yield ROW
        yield ROW | {"network": "resnet20"}

    monkeypatch.setattr(steps, "training_steps", rows)
    result = kdnb("bench", "networks", "--batch-size", "4", "--rounds", "2")
    assert result.exit_code == 0
    assert asked == [{"batch_size": 4, "rounds": 2}]
    assert "resnet20" in result.stdout
    assert "25.0" in result.stdout
    lines = kdnb("bench", "networks", "--json").stdout.splitlines()
    assert [json.loads(line)["network"] for line in lines] == ["resnet8", "resnet20"]


def test_bench_measures_all_kinds_in_turn_unless_told(monkeypatch):
    monkeypatch.setattr(steps, "training_steps", lambda **_: iter([ROW]))
    kinds = {"distillation_steps": "srrl", "group_steps": "ffsd", "joint_steps": "ecd"}
    measured = {(steps, kind): name for kind, name in kinds.items()}
    measured |= {(crd, "contrast_steps"): "crd", (busy, "busy_steps"): "busy"}
    for (module, kind), name in measured.items():
        row = {"method": name, "ms": 1.0, "matmul_share": 0.5}
        monkeypatch.setattr(module, kind, lambda row=row, **_: iter([row]))
    found = [line.split()[0] for line in kdnb("bench").stdout.splitlines()][2::3]
    assert found == ["resnet8", "srrl", "ffsd", "ecd", "crd", "busy"]
    assert "resnet8" not in kdnb("bench", "methods").stdout


@pytest.mark.parametrize("words", [["--batch-size", "1"], ["--rounds", "0"], ["--rounds", "x"]])
def test_bench_refuses_numbers_out_of_range(words):
    assert kdnb("bench", *words).exit_code == 2
