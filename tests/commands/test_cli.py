"""What a user types, and what comes back: output, messages, exit codes."""

import sys

import pytest
from click.testing import CliRunner
from fake_course import make_notebook

from kdnb import __version__
from kdnb.commands.cli import main
from kdnb.commands.doctor import Check
from kdnb.errors import InputError
from kdnb.headless import Outcome


def kdnb(*arguments: str):
    return CliRunner().invoke(main, arguments)


def test_version_and_help():
    assert kdnb("--version").output == f"kdnb, version {__version__}\n"
    text = kdnb("--help").output
    assert all(command in text for command in ("run", "list", "doctor", "lab"))


def test_an_unknown_command_names_the_nearest():
    result = kdnb("docter")
    assert result.exit_code == 2
    assert result.stderr.startswith("kdnb: Unknown command 'docter'. Did you mean 'doctor'?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["7"], "Unknown notebook '7'"),
        (["0", "-p", "lr=1"], "Unknown parameter of the notebook 00_start_here 'lr'"),
        (["-p", "lr=1"], "00_start_here has no parameter 'lr'"),
        (["--preset", "fast"], "Unknown preset 'fast'"),
        (["--preset", "smoke", "-p", "preset=quick"], "given twice"),
        (["--out", "file/executed"], "cannot be written"),
    ],
)
def test_bad_input_ends_with_one_line_and_2(course, monkeypatch, arguments, message):
    monkeypatch.chdir(course)
    (course / "file").write_text("")
    before = sorted(course.rglob("*"))
    result = kdnb("run", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("kdnb: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert sorted(course.rglob("*")) == before, "nothing was written"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(names):
        raise ValueError("a bug")

    monkeypatch.setattr("kdnb.headless.notebooks.select", broken)
    assert isinstance(kdnb("run").exception, ValueError)
    assert not isinstance(kdnb("run").exception, InputError)


def test_too_many_jobs_are_capped_with_a_note(course, monkeypatch):
    orders = []

    def fake(notebooks, order):
        orders.append(order)
        return (Outcome(notebook.stem, "ok", 1.0, {}) for notebook in notebooks)

    monkeypatch.setattr("kdnb.headless.run", fake)
    monkeypatch.setattr("kdnb.headless.cores", lambda: 3)
    assert "this machine has 3 cores" in kdnb("run", "--jobs", "8").stderr
    assert "cores" not in kdnb("run", "--jobs", "2").stderr
    assert [order.jobs for order in orders] == [3, 2]


@pytest.mark.slow
def test_run_shows_a_table_and_fails_if_a_notebook_failed(course, monkeypatch):
    make_notebook(course / "notebooks/05_ffsd.ipynb", "raise KeyError('peers')")
    monkeypatch.chdir(course)
    result = kdnb("run", "0", "5", "--preset", "smoke", "--out", "there")
    assert result.exit_code == 1
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows[1:]] == [["00_start_here", "ok"], ["05_ffsd", "failed"]]
    assert "05_ffsd failed at In [3]: KeyError: 'peers'" in result.stderr
    assert (course / "there/00_start_here.ipynb").exists()


@pytest.mark.slow
def test_list_shows_everything_there_is(course):
    from kdnb.datasets import DATASETS
    from kdnb.methods import METHODS
    from kdnb.networks import NETWORKS

    result = kdnb("list")
    assert result.exit_code == 0, result.output
    assert "  04  Title of 04_semckd\n" in result.output
    assert 'preset: str = "quick"' in result.output
    assert "cross_layer_weight = 400.0" in result.output
    assert "smoke | quick | paper" in result.output
    words = result.output.split()
    assert {*METHODS, *NETWORKS, *DATASETS, "NAME-dynamic:"} <= set(words)
    assert "partial(" not in result.output


def test_doctor_prints_remedies_and_fails_with_1(monkeypatch):
    good, bad = Check("Python", "ok", "3.11"), Check("disk", "FAIL", "full", "rm old")
    monkeypatch.setattr("kdnb.commands.doctor.examine", lambda output: [good, bad])
    result = kdnb("doctor")
    assert result.exit_code == 1
    assert result.stdout == "ok    Python: 3.11\nFAIL  disk: full\n      -> rm old\n"
    monkeypatch.setattr("kdnb.commands.doctor.examine", lambda output: [good])
    assert kdnb("doctor").exit_code == 0


@pytest.mark.parametrize(
    ("user", "given", "passed"),
    [
        (1000, ["--port=8890"], ["--port=8890"]),
        (0, ["--port=8890"], ["--allow-root", "--port=8890"]),
        (0, ["--allow-root"], ["--allow-root"]),
    ],
)
def test_lab_opens_the_first_notebook_and_passes_arguments_on(course, monkeypatch, user, given, passed):
    called = []
    monkeypatch.setattr("os.execv", lambda program, arguments: called.append((program, arguments)))
    monkeypatch.setattr("os.geteuid", lambda: user, raising=False)
    told = kdnb("lab", *given).stderr
    ((program, (again, module, lab, folder, *options)),) = called
    assert program == again == sys.executable
    assert (module, lab, folder) == ("-m", "jupyterlab", str(course / "notebooks"))
    assert sorted(options) == sorted(["--LabApp.default_url=/lab/tree/00_start_here.ipynb", *passed])
    assert "prints its address below" in told
    assert ("You are root" in told) == (passed != given)
