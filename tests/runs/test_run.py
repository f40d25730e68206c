"""Runs on disk: found, repeated, interrupted at any moment, resumed to the same bits."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from signal import SIGKILL

import pandas as pd
import pytest
import torch
from PIL import Image
from small_runs import assert_same_result, make_pictures, words_of

from kdnb import __version__, datasets
from kdnb.errors import InputError
from kdnb.methods import KD, LabelsOnly
from kdnb.runs import records, running
from kdnb.runs import spec as spec_module
from kdnb.runs.checkpoints import load_network, load_state
from kdnb.runs.records import Record, compared, read
from kdnb.runs.running import run
from kdnb.runs.spec import Spec


def stop_after(epochs: int):
    def report(row):
        if row["epoch"] == epochs:
            raise KeyboardInterrupt

    return report


def interrupt(spec: Spec, out: Path, epochs: int = 1) -> Path:
    with pytest.raises(KeyboardInterrupt):
        run(spec, out=out, report=stop_after(epochs))
    return out / spec.name


# What a run leaves


def test_a_run_leaves_a_record_a_history_a_network_and_a_state(spec, whole):
    names = {path.name for path in whole.iterdir()}
    [tensors] = [name for name in names if name.startswith("state-")]
    assert names == {"run.json", "history.csv", "student.safetensors", "state.json", tensors}

    content = json.loads((whole / "run.json").read_text())
    record = Record(**content)
    assert list(content) == [field.name for field in fields(Record)]
    assert Spec(**record.spec) == spec
    assert record == records.read(whole)
    assert record.versions["kdnb"] == __version__
    assert set(record.versions) == {"kdnb", "torch", "torchvision", "python"}
    assert record.teacher is None
    assert set(record.metrics) == {"student"}

    history = pd.read_csv(whole / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    expected = ["epoch", "lr", "seconds", "student/label", "validation/student", "test/student"]
    assert list(history) == expected
    assert history["student/label"].iloc[-1] < history["student/label"].iloc[0], "it learns"
    assert record.metrics["student"]["last"] == history["test/student"].iloc[-1]


def test_the_kept_network_is_the_trained_one_with_its_classes_and_checksum(spec, whole):
    saved = load_network(whole, expected="resnet8")
    assert saved.classes == ("left", "right")
    state = load_state(whole)["train"]["method"]
    weights = {name.removeprefix("student."): value for name, value in state.items()}
    assert all(value.equal(weights[name]) for name, value in saved.net.state_dict().items())
    assert records.read(whole).student == running._checksum(whole / "student.safetensors")


def test_a_run_of_several_depths_keeps_them_all(spec, tmp_path):
    nested = replace(spec, method="ddnn", student="resnet20", epochs=1, options={"depths": "14,8"})
    record = run(nested, out=tmp_path)
    net = load_network(tmp_path / nested.name / "depths.safetensors").net.eval()
    test = running.datasets.load(nested.data, size=8).batches("test")
    for depth, learner in ((20, "full"), (14, "depth14"), (8, "depth8")):
        accuracy = running.evaluate(net.export(depth), test)["network"]
        assert accuracy == record.metrics[learner]["last"]
    plain = load_network(tmp_path / nested.name).net.state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in net.full.state_dict().items())


def test_nothing_kept_tells_where_it_was_made(pictures, monkeypatch, tmp_path, spec):
    monkeypatch.chdir(pictures.parent)
    here = replace(spec, data="pictures", epochs=1)
    run(here, out=tmp_path / "made" / "here")
    folder = tmp_path / "made" / "here" / here.name
    for path in folder.iterdir():
        content = path.read_bytes()
        for place in (tmp_path, pictures.parent, Path.home(), Path(sys.prefix), records.PROJECT):
            assert bytes(place) not in content, path.name
    assert not [word for word in (folder / "run.json").read_text().split('"') if word[:1] == "/"]


def test_report_gets_the_rows_of_the_history(spec, tmp_path):
    rows = []
    run(replace(spec, epochs=2), out=tmp_path, report=rows.append)
    [path] = tmp_path.rglob("history.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(rows), pd.read_csv(path))


def test_last_selected_and_best_are_told_apart(spec, tmp_path, monkeypatch):
    accuracies = iter([10, 90, 80, 55, 80, 60])  # validation and test, epoch by epoch
    monkeypatch.setattr(running, "evaluate", lambda *_, **__: {"student": float(next(accuracies))})
    metrics = run(spec, out=tmp_path).metrics["student"]
    assert metrics == {
        "last": 60,
        "selected": 55,  # of two epochs with the best validation accuracy the first
        "selected_epoch": 2,
        "best": 90,
        "best_epoch": 1,
    }


def test_evaluating_every_few_epochs_changes_no_weight_and_never_misses_the_last(spec, whole, tmp_path):
    record = run(spec, out=tmp_path, evaluate_every=2)
    history = pd.read_csv(tmp_path / spec.name / "history.csv")
    assert history["test/student"].notna().tolist() == [False, True, True]
    always = read(whole)
    assert (record.evaluate_every, always.evaluate_every) == (2, 1)
    with pytest.raises(InputError, match="evaluate_every must be at least 1"):
        run(spec, out=tmp_path, evaluate_every=0)
    assert record.student == always.student
    assert record.metrics["student"]["last"] == always.metrics["student"]["last"]


def test_weight_decay_and_number_and_noise_of_the_labels_are_used(spec, whole, tmp_path):
    for other in (replace(spec, weight_decay=0.1), replace(spec, labels=4), replace(spec, label_noise=0.5)):
        run(other, out=tmp_path)
        name = "student.safetensors"
        assert (tmp_path / other.name / name).read_bytes() != (whole / name).read_bytes()


# Found, repeated, tabulated


def test_a_finished_run_is_found_and_not_repeated(spec, whole, monkeypatch):
    monkeypatch.setattr(running, "train", lambda *_, **__: pytest.fail("it trained again"))
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert run(spec, out=whole.parent) == records.read(whole)
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_again_repeats_a_finished_run_to_the_same_bits(spec, whole, tmp_path):
    run(spec, out=tmp_path)
    path = tmp_path / spec.name / "run.json"
    before = path.stat().st_mtime_ns
    run(spec, out=tmp_path, again=True)
    assert path.stat().st_mtime_ns > before
    assert_same_result(path.parent, whole)


def test_again_forgets_the_earlier_run_at_once(spec, tmp_path, monkeypatch):
    run(spec, out=tmp_path)

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LabelsOnly, "losses", broken)
    with pytest.raises(KeyboardInterrupt):
        run(spec, out=tmp_path, again=True)
    assert load_state(tmp_path / spec.name) is None, "else --resume would find the old end"
    with pytest.raises(InputError, match="not the record"):
        records.read(tmp_path / spec.name)


def test_the_table_has_a_row_a_learner(spec, whole, tmp_path):
    other = replace(spec, seed=2, epochs=1)
    run(other, out=tmp_path / "deeper")
    (tmp_path / spec.name).symlink_to(whole)
    table = records.table(whole.parent)
    assert len(table) == 1
    row = table.iloc[0]
    metrics = records.read(whole).metrics["student"]
    expected = spec.settings | {"learner": "student"} | metrics
    assert {name: row[name] for name in expected} == expected
    assert list(records.table(tmp_path / "deeper")["seed"]) == [2]
    assert records.table(tmp_path / "nothing").empty


def test_the_table_shows_every_option_given_or_not(spec, whole, tmp_path):
    chosen = replace(spec, method="kd", teacher=str(whole), epochs=1, options={"temperature": 2.0})
    run(chosen, out=tmp_path)
    row = records.table(tmp_path).iloc[0]
    assert (row["temperature"], row["soft_weight"]) == (2.0, 0.9)


def test_a_record_keeps_the_defaults_of_its_day(spec, whole, tmp_path, monkeypatch):
    run(replace(spec, method="kd", teacher=str(whole), epochs=1), out=tmp_path)
    today = records.method_options(KD)
    monkeypatch.setattr(records, "method_options", lambda method: today | {"temperature": 7.0})
    assert records.table(tmp_path).iloc[0]["temperature"] == 4.0
    path = next(tmp_path.glob("*/run.json"))
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "options"}
    path.write_text(json.dumps(older))
    assert records.table(tmp_path).iloc[0]["temperature"] == 7.0, "older records do not say"


def test_compared_pairs_by_seed():
    rows = [("a", 0, 50.0), ("a", 1, 60.0), ("b", 1, 63.0), ("b", 0, 51.0), ("b", 2, 90.0), ("c", 0, 1.0)]
    runs = pd.DataFrame(rows, columns=["name", "seed", "last"])
    found = compared(runs, "name", baseline="a")
    assert list(found.index) == ["a", "b", "c"]
    assert found.loc["b", ["seeds", "mean", "difference"]].tolist() == [3, 68, 2]
    assert found.loc["b", "low"] == pytest.approx(2 - 12.706 * 1, rel=1e-3)  # t of one degree of freedom
    assert found.loc[["a", "c"], "difference"].isna().all()
    with pytest.raises(InputError, match="Two runs are named 'c' with seed 0"):
        compared(pd.concat([runs, runs.tail(1)]), "name", baseline="a")
    with pytest.raises(InputError, match="Unknown name 'd'"):
        compared(runs, "name", baseline="d")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"spec": {}}'])
def test_a_damaged_record_is_an_error(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json is not the record of a finished run"):
        records.read(tmp_path)


# Interrupted and resumed


@pytest.mark.parametrize("precision", ["auto", "fp32", "fp64"])
def test_a_resumed_run_ends_in_the_same_bits(spec, tmp_path, precision):
    chosen = replace(spec, precision=precision)
    run(chosen, out=tmp_path / "whole")
    interrupt(chosen, tmp_path / "parts", epochs=1)
    with pytest.raises(KeyboardInterrupt):
        run(chosen, out=tmp_path / "parts", resume=True, report=stop_after(2))
    run(chosen, out=tmp_path / "parts", resume=True)
    assert_same_result(tmp_path / "parts" / chosen.name, tmp_path / "whole" / chosen.name)


def test_a_run_from_the_cache_ends_in_the_same_bits_and_says_so(spec, whole, tmp_path):
    """Begun in memory, gone on with from the cache."""
    assert records.read(whole).loading == "memory"
    folder = interrupt(spec, tmp_path / "runs")
    record = run(spec, out=tmp_path / "runs", resume=True, memory=0, data_root=tmp_path / "root")
    assert record.loading == "cache"
    assert_same_result(folder, whole)


def test_a_record_of_before_was_held_in_memory(whole, tmp_path):
    content = json.loads((whole / "run.json").read_text())
    del content["loading"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert records.read(tmp_path).loading == "memory"


def test_an_interrupted_run_is_not_overwritten_unasked(spec, whole, tmp_path):
    folder = interrupt(spec, tmp_path)
    before = (folder / "state.json").read_bytes()
    with pytest.raises(InputError, match=r"1 of 3 epochs\).*--resume.*--force"):
        run(spec, out=tmp_path)
    assert (folder / "state.json").read_bytes() == before
    run(spec, out=tmp_path, again=True)
    assert_same_result(folder, whole)


def test_a_run_that_was_never_begun_can_be_resumed(spec, whole, tmp_path):
    run(spec, out=tmp_path, resume=True)
    assert_same_result(tmp_path / spec.name, whole)


def test_seconds_count_all_sittings(spec, tmp_path, monkeypatch):
    """By a clock that is a second later whenever it is read: at the start, and after every epoch."""
    monkeypatch.setattr(running, "perf_counter", map(float, itertools.count()).__next__)
    assert load_state(interrupt(spec, tmp_path))["seconds"] == 1
    assert run(spec, out=tmp_path, resume=True).seconds == 3


def test_a_run_is_not_resumed_on_other_data(spec, tmp_path):
    data = make_pictures(tmp_path / "mine")
    mine = replace(spec, data=str(data))
    interrupt(mine, tmp_path)
    Image.new("RGB", (8, 8)).save(data / "left" / "0.png")
    with pytest.raises(InputError, match=r"The data of the interrupted run .* changed"):
        run(mine, out=tmp_path, resume=True)


@pytest.mark.parametrize("begin", [lambda spec, out: run(spec, out=out), interrupt])
def test_a_run_under_another_days_default_is_neither_returned_nor_resumed(
    spec, whole, tmp_path, monkeypatch, begin
):
    """Its folder has the same name, for a name tells what differs from the defaults."""
    distilled = replace(spec, method="kd", teacher=str(whole), epochs=2)
    begin(distilled, tmp_path)
    today = spec_module.method_options(KD)
    changed = today | {"temperature": 7.0, "an_option_added_since": 1}
    with monkeypatch.context() as patch:
        patch.setattr(spec_module, "method_options", lambda method: changed)
        with pytest.raises(InputError, match=r"temperature=4\.0, .*temperature=7\.0\. Choose another --out"):
            run(distilled, out=tmp_path, resume=True)
    assert run(distilled, out=tmp_path, resume=True).options == today


def test_a_run_is_not_resumed_with_another_teacher(spec, whole, tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    teacher.write_bytes((whole / "student.safetensors").read_bytes())
    distilled = replace(spec, method="kd", teacher=str(teacher))
    interrupt(distilled, tmp_path)
    run(replace(spec, seed=9), out=tmp_path / "other")
    [other] = (tmp_path / "other").rglob("student.safetensors")
    teacher.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=r"The teacher of the interrupted run .* changed"):
        run(distilled, out=tmp_path, resume=True)


PATCHED = """
import os, resource, sys
from pathlib import Path
from signal import SIGKILL

from kdnb.runs import running
from kdnb.commands.cli import main
from kdnb.methods import LabelsOnly

def count(owner, name, meets, moment, act):
    "Calls act just before the call number moment of owner.name whose arguments meet the condition."
    original, calls = getattr(owner, name), []
    def counted(*arguments, **options):
        calls.append(meets(*arguments))
        if calls[-1] and sum(calls) == moment:
            act()
        return original(*arguments, **options)
    setattr(owner, name, counted)

def die():
    os.kill(os.getpid(), SIGKILL)

def fill_the_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # Python ignores SIGXFSZ

anything = lambda *_: True
onto = lambda start: lambda self, target, *_: Path(target).name.startswith(start)
{patch}
sys.argv = ["kdnb", "train", *sys.argv[1:]]
main()
"""

MOMENTS = {
    "in the first epoch": "count(LabelsOnly, 'losses', anything, 2, die)",
    "in the second epoch": "count(LabelsOnly, 'losses', anything, 6, die)",
    "between an epoch and its state": "count(running, 'evaluate', anything, 4, die)",
    "in writing the tensors": "count(os, 'fsync', anything, 4, die)",  # 1 claims the folder
    "in writing the state": "count(os, 'fsync', anything, 5, die)",
    "before the tensors' name": "count(Path, 'replace', onto('state-'), 2, die)",
    "between tensors and state": "count(Path, 'replace', onto('state.json'), 2, die)",
    "before the old state is removed": (
        "count(Path, 'unlink', lambda self, **_: self.name.startswith('state-'), 1, die)"
    ),
    "before the record": "count(Path, 'replace', onto('run.json'), 1, die)",
}


def patched_train(patch: str, spec: Spec, out: Path) -> subprocess.CompletedProcess:
    script = out / "script.py"
    script.write_text(PATCHED.replace("{patch}", patch))
    command = [sys.executable, str(script), *words_of(spec, out)]
    options = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    return subprocess.run(command, **options)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(spec, whole, tmp_path, moment):
    killed = patched_train(MOMENTS[moment], spec, tmp_path)
    assert killed.returncode == -SIGKILL, killed.stderr
    folder = tmp_path / spec.name
    assert not (folder / "run.json").exists()
    state = load_state(folder)
    finished = killed.stderr.count("epoch ")
    assert (len(state["history"]) if state else 0) - finished in (0, 1)
    run(spec, out=tmp_path, resume=True)
    for left in folder.glob(".*"):
        left.unlink()  # what a kill leaves half-written is a hidden neighbour, never the file
    assert_same_result(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "patch",
    [
        "count(running, 'save_state', anything, 2, fill_the_disk)",  # no room for the tensors
        "count(Path, 'replace', onto('state-'), 2, fill_the_disk)",  # none for what names them
    ],
)
def test_a_full_disk_leaves_the_earlier_state(spec, whole, tmp_path, patch):
    full = patched_train(patch, spec, tmp_path)
    folder = tmp_path / spec.name
    assert full.returncode == 2
    assert "Traceback" not in full.stderr
    assert full.stderr.splitlines()[-1].startswith(f"kdnb: Could not write {folder}")
    assert "Free some space" in full.stderr
    assert not list(folder.glob(".*")), "the half-written file is gone"
    assert len(load_state(folder)["history"]) == 1
    run(spec, out=tmp_path, resume=True)
    assert_same_result(folder, whole)


# Teachers


@pytest.fixture
def distilled(spec, whole) -> Spec:
    return replace(spec, method="kd", teacher=str(whole), epochs=1)


def test_the_teacher_is_recorded_by_its_checksum(distilled, whole, tmp_path):
    record = run(distilled, out=tmp_path)
    assert record.teacher == running._checksum(whole / "student.safetensors")
    file = replace(distilled, teacher=str(whole / "student.safetensors"))
    assert run(file, out=tmp_path).student == record.student


def test_students_of_different_methods_start_alike(distilled, spec):
    data = running.datasets.load(spec.data, size=8)
    students = [running.assemble(chosen, data)[0].student for chosen in (distilled, spec)]
    for one, other in zip(*(student.parameters() for student in students), strict=True):
        assert one.equal(other)


def test_the_kept_network_of_a_group_starts_as_the_baseline_does(spec):
    data = running.datasets.load(spec.data, size=8)
    alone = running.assemble(spec, data)[0].student
    for method, kept in (("ffsd", "leader"), ("dml", "students.0"), ("one", "students.0")):
        group, _ = running.assemble(replace(spec, method=method), data)
        assert group.export() is group.get_submodule(kept)
        for one, other in zip(alone.parameters(), group.export().parameters(), strict=True):
            assert one.equal(other)
        first, second = (group.students[number].head.weight for number in (0, 1))
        assert not first.equal(second)


def bad_teacher(kind: str, whole: Path, folder: Path) -> Path | None:
    if kind == "none for these data":
        return None
    content = (whole / "student.safetensors").read_bytes()
    lengths = {"truncated": len(content) // 2, "a few bytes": 5, "empty": 0}
    path = folder / f"{kind}.safetensors"
    if kind in lengths:
        path.write_bytes(content[: lengths[kind]])
    if kind == "foreign":
        path.write_text("not a network " * 1000)
    if kind == "an empty folder":
        path.mkdir()
    return path


BAD_TEACHERS = {
    "missing": "There is no network file at",
    "truncated": "is truncated or not a safetensors file",
    "a few bytes": "is truncated or not a safetensors file",
    "empty": "is truncated or not a safetensors file",
    "foreign": "is truncated or not a safetensors file",
    "an empty folder": "There is no network file at",
    "none for these data": "kd needs a teacher for",
}


@pytest.mark.parametrize("kind", BAD_TEACHERS)
def test_a_bad_teacher_is_an_error_and_nothing_is_written(distilled, whole, tmp_path, kind):
    path = bad_teacher(kind, whole, tmp_path)
    chosen = replace(distilled, teacher=path and str(path))
    with pytest.raises(InputError, match=BAD_TEACHERS[kind]):
        run(chosen, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shapes_of_64_pixels_have_no_shipped_teacher():
    data = datasets.shapes(size=64, train=24, validation=12, test=12)
    with pytest.raises(InputError, match="kd needs a teacher for shapes at 64 pixels"):
        running.assemble(Spec("kd", size=64), data)


@pytest.mark.parametrize("names", [("left", "wrong"), ("left", "middle", "right"), ("a", "b")])
def test_a_teacher_of_other_classes_is_an_error(distilled, tmp_path, names):
    other = replace(distilled, data=str(make_pictures(tmp_path / "other", names)))
    with pytest.raises(InputError, match=f"knows the classes left, right.*{', '.join(names)}"):
        run(other, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Where nothing can be written


@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_written_is_found_before_training(spec, tmp_path, place, monkeypatch):
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(running, "train", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(InputError, match="Could not write"):
        run(spec, out=tmp_path / place)
    assert (tmp_path / "file").read_text() == "kept"


def test_without_git_the_code_version_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "PROJECT", tmp_path)
    assert records.code_version() == "unknown"
    monkeypatch.setenv("PATH", os.devnull)
    assert records.code_version() == "unknown"
