"""Running notebooks: parameters, failures, records, resuming, stopping."""

import asyncio
import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import zmq
from fake_course import make_notebook
from waiting import PATIENCE, wait_until

from kdnb.errors import InputError
from kdnb.files import files_folder
from kdnb.headless import (
    Failure,
    Outcome,
    Progress,
    RunOptions,
    headline,
    headline_text,
    keep_alive,
    run,
    worker,
)
from kdnb.headless.display import Display, failure_text, table
from kdnb.headless.notebooks import Parameter, parameter_values, read_notebook, select


def outcomes_of(notebooks: list[Path], options: RunOptions) -> dict[str, Outcome]:
    events = run([read_notebook(path) for path in notebooks], options)
    return {event.notebook: event for event in events if isinstance(event, Outcome)}


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))


@pytest.mark.parametrize("name", ["4", "04", "04_semckd", "notebooks/04_semckd.ipynb"])
def test_a_notebook_has_several_names(course, name):
    assert [path.stem for path in select([name, name])] == ["04_semckd"]


def test_no_name_selects_all_in_the_order_of_the_course(course):
    assert [path.stem for path in select([])] == ["00_start_here", "04_semckd"]


@pytest.mark.parametrize(
    ("name", "hint"), [("5", "'04_semckd'"), ("semckd", "'04_semckd'"), ("start", "'00_start_here'")]
)
def test_an_unknown_notebook_is_refused_with_the_nearest(course, name, hint):
    with pytest.raises(InputError, match=f"Did you mean {hint}"):
        select([name])


def test_values_take_the_declared_types(course):
    notebooks = [read_notebook(path) for path in select(["4"])]
    given = ["preset=smoke", "seed=3", "lr=1e-2", "show=Yes", "guess=7"]
    values = parameter_values(notebooks, given)
    assert values == {"preset": "smoke", "seed": 3, "lr": 0.01, "show": True, "guess": 7}
    assert {type(value) for value in values.values()} == {str, int, float, bool}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("sed=1", "Did you mean 'seed'.*Known: preset, seed, lr"),
        ("seed", "expected name=value"),
        ("seed=1.5", r"seed='1.5' is not of type int.*whole number.*own value is 0"),
        ("lr=fast", "lr='fast' is not of type float"),
        ("show=maybe", "show='maybe' is not of type bool.*true or false"),
        ("guess=x", "guess='x' is not of type int"),
        ("preset=smokey", "Unknown preset 'smokey'. Did you mean 'smoke'"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(course, pair, message):
    with pytest.raises(InputError, match=message):
        parameter_values([read_notebook(path) for path in select(["4"])], [pair])


def test_a_parameter_must_be_known_to_every_notebook(course):
    notebooks = [read_notebook(path) for path in select([])]
    with pytest.raises(InputError, match="00_start_here has no parameter 'lr', which 04_semckd has"):
        parameter_values(notebooks, ["lr=0.5"])


def test_a_parameter_given_twice_is_refused(course):
    notebooks = [read_notebook(path) for path in select(["4"])]
    with pytest.raises(InputError, match="'seed' is given twice"):
        parameter_values(notebooks, ["seed=1", "seed=2"])


def test_only_what_the_cells_say_enters_the_source_hash(tmp_path):
    path = make_notebook(tmp_path / "00_a.ipynb", "print(1)")
    before = read_notebook(path).source
    content = json.loads(path.read_text())
    content["metadata"]["touched"] = True
    content["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "1"}]
    path.write_text(json.dumps(content))
    assert read_notebook(path).source == before
    make_notebook(path, "print(2)")
    assert read_notebook(path).source != before


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    broken = tmp_path / "00_broken.ipynb"
    broken.write_text('{"cells": [')
    with pytest.raises(InputError, match=r"00_broken.ipynb cannot be read as a notebook"):
        read_notebook(broken)


@pytest.mark.parametrize("occupied", ["executed", "executed/summary.json"])
def test_an_output_folder_that_cannot_be_used_is_refused_first(tmp_path, occupied):
    source = make_notebook(tmp_path / "00_a.ipynb")
    place = tmp_path / occupied
    place.parent.mkdir(exist_ok=True)
    place.write_text("in the way")
    with pytest.raises(InputError, match="--out"):
        run([read_notebook(source)], RunOptions(tmp_path / "executed", {}))
    assert place.read_text() == "in the way"


def test_headline_text_has_three_digits():
    assert headline_text({"kd": 55.239, "steps": 12345.6}) == "kd 55.2, steps 12346"


@pytest.mark.parametrize("value", ["high", None, float("nan")])
def test_headline_refuses_what_is_no_finite_number(value):
    with pytest.raises(ValueError, match="kd is"):
        headline(kd=value)


def test_the_table_lines_up_and_names_the_failing_cell():
    good = Outcome("00_a", "ok", 61.0, {"kd": 55.2})
    bad = Outcome("01_long_name", "failed", 2.0, {}, Failure(4, "ValueError", "odd", "line 1"))
    assert table([good, bad]).splitlines() == [
        "notebook      status  time   headline",
        "00_a          ok      01:01  kd 55.2",
        "01_long_name  failed  00:02  In [4]: ValueError",
    ]
    assert failure_text(bad) == "01_long_name failed at In [4]: ValueError: odd\nline 1"


def test_without_a_terminal_progress_is_a_line_at_start_and_end(capsys):
    display = Display(["00_a"], sys.stderr)
    for event in [Progress("00_a", 0, 3), Progress("00_a", 1, 3), Outcome("00_a", "ok", 2.0, {})]:
        display.show(event)
    display.close()
    assert capsys.readouterr().err == "00_a: started, 3 cells\n00_a: ok, 00:02\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_terminal_every_notebook_has_a_bar():
    terminal = Terminal()
    display = Display(["00_a", "01_b"], terminal)
    for event in [Progress("00_a", 0, 4), Progress("00_a", 2, 4)]:
        display.show(event)
    display.show(Outcome("01_b", "failed", 2.0, {}, Failure(4, "ValueError", "odd", "")))
    assert re.search(r"00_a runs +\|.*\| +2/4 cells", terminal.getvalue())
    display.show(Outcome("00_a", "ok", 61.0, {}))
    display.close()
    assert re.search(r"00_a ok +\|.*\| +4/4 cells 01:01", terminal.getvalue())
    assert re.search(r"01_b failed +\|", terminal.getvalue())


def test_what_libraries_print_does_not_mix_with_the_reports():
    program = (
        "import os; from kdnb.headless import worker; report = worker._private_stdout();"
        "os.write(1, b'noise'); report({'done': 1})"
    )
    trial = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (trial.stdout, trial.stderr) == ('{"done": 1}\n', "noise")


def test_a_socket_path_that_is_too_long_falls_back_to_tcp(tmp_path):
    assert worker.kernel_config(Path("k"), posix=True).KernelManager.transport == "ipc"
    assert "transport" not in worker.kernel_config(tmp_path / ("x" * 90), posix=True).KernelManager
    assert "transport" not in worker.kernel_config(Path("k"), posix=False).KernelManager


def test_a_worker_that_vanishes_is_a_failure_that_shows_its_last_words(tmp_path, monkeypatch):
    source = make_notebook(tmp_path / "00_a.ipynb")
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho last words >&2\nexit 9\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    failure = outcomes_of([source], RunOptions(tmp_path / "out", {}))["00_a"].failure
    assert "ended with code 9" in failure.evalue
    assert failure.traceback == "last words"


SHOW = """
import json, os, sys, warnings
from ipykernel.connect import get_connection_info
print(preset, seed, os.getcwd(), sys.executable, get_connection_info(unpack=True)["transport"])
"""
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HEADLINE = "from kdnb.headless import headline; headline(kd=55.25, gain=7)"
SLEEP = "import time; time.sleep(0.5)"
LEAVE = "from kdnb.files import files_folder; (files_folder() / f'seed-{seed}.txt').write_text('left')"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """One run of a good, a failing and a dying notebook, two at a time, from a folder of its own,
    with a kernelspec called python3 that leads nowhere."""
    folder = tmp_path_factory.mktemp("run {with} braces")
    spec = folder / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    argv = ["/nowhere/python", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "-", "language": "python"}))
    notebooks = [
        make_notebook(folder / "00_good.ipynb", SHOW, HEADLINE, LEAVE),
        make_notebook(folder / "01_bad.ipynb", "before = 1", "1 / 0", "after = 2"),
        make_notebook(folder / "02_dead.ipynb", "import os; os._exit(3)"),
    ]
    good = nbformat.read(notebooks[0], as_version=4)
    good.cells.append(nbformat.v4.new_markdown_cell("![a dot](dot.png)"))
    nbformat.write(good, notebooks[0])
    (folder / "dot.png").write_bytes(base64.b64decode(PICTURE))
    (folder / "here").mkdir()
    (folder / "here/nbconvert.py").write_text("raise ImportError('not this one')")
    options = RunOptions(folder / "out", {"preset": "smoke", "seed": 3}, html=True, jobs=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "here")
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        outcomes = outcomes_of(notebooks, options)
    return folder, notebooks, options, outcomes


@pytest.fixture
def copied(executed, tmp_path) -> tuple[Path, list[Path], RunOptions]:
    """What ``executed`` left, to be changed."""
    folder = shutil.copytree(executed[0], tmp_path / "copy")
    notebooks = [folder / notebook.name for notebook in executed[1]]
    return folder, notebooks, replace(executed[2], out=folder / "out")


@pytest.mark.slow
class TestExecuted:
    def test_the_notebook_runs_here_with_this_python_over_unix_sockets(self, executed):
        folder, _, _, outcomes = executed
        assert outcomes["00_good"].status == "ok"
        transport = "ipc" if os.name == "posix" else "tcp"
        seen = f"smoke 3 {folder / 'here'} {sys.executable} {transport}"
        assert printed(folder / "out/00_good.ipynb").strip() == seen

    def test_the_page_carries_the_pictures_of_the_text(self, executed):
        assert PICTURE in (executed[0] / "out/00_good.html").read_text()

    def test_headlines_are_collected(self, executed):
        assert executed[3]["00_good"].headline == {"kd": 55.25, "gain": 7.0}

    def test_a_failure_is_located_and_does_not_stop_the_others(self, executed):
        failure = executed[3]["01_bad"].failure
        assert (failure.cell, failure.ename, failure.evalue) == (
            4,
            "ZeroDivisionError",
            "division by zero",
        )
        assert "----> 1 1 / 0" in failure.traceback
        assert "\x1b" not in failure.traceback

    def test_the_partly_executed_notebook_is_kept(self, executed):
        cells = nbformat.read(executed[0] / "out/01_bad.ipynb", as_version=4).cells
        counts = {cell.source: cell.execution_count for cell in cells if cell.cell_type == "code"}
        assert counts["1 / 0"] == 4
        assert counts["after = 2"] is None

    def test_a_kernel_that_dies_is_a_failure_with_a_hint(self, executed):
        failure = executed[3]["02_dead"].failure
        assert failure.ename == "DeadKernelError"
        assert "memory" in failure.evalue

    def test_nothing_is_left_over(self, executed):
        names = {path.name for path in (executed[0] / "out").iterdir()}
        stems = ["00_good", "01_bad", "02_dead"]
        pages = {f"{stem}{suffix}" for stem in stems for suffix in (".ipynb", ".html")}
        assert names == pages | {"summary.json", "results.csv", "00_good_files"}

    def test_what_the_code_leaves_lies_beside_the_notebook(self, executed):
        left = {path.name: path.read_text() for path in (executed[0] / "out/00_good_files").iterdir()}
        assert left == {"seed-3.txt": "left"}
        assert files_folder() is None, "the variable is the kernel's alone"

    def test_the_table_of_results_has_a_row_for_every_notebook(self, executed):
        with (executed[0] / "out/results.csv").open() as file:
            rows = list(csv.DictReader(file))
        found = [(row["notebook"], row["status"], row["kd"], row["gain"]) for row in rows]
        assert found == [
            ("00_good", "ok", "55.25", "7.0"),
            *((name, "failed", "", "") for name in ("01_bad", "02_dead")),
        ]

    def test_no_path_of_this_machine_stays_in_the_metadata(self, executed):
        notebook = nbformat.read(executed[0] / "out/00_good.ipynb", as_version=4)
        assert str(executed[0]) not in json.dumps(notebook.metadata)

    def test_the_summary_holds_every_notebook(self, executed):
        records = json.loads((executed[0] / "out/summary.json").read_text())["notebooks"]
        assert {name: record["status"] for name, record in records.items()} == {
            "00_good": "ok",
            "01_bad": "failed",
            "02_dead": "failed",
        }
        assert records["00_good"]["parameters"] == {"preset": "smoke", "seed": 3}
        assert records["00_good"]["source"] == read_notebook(executed[1][0]).source

    def test_resume_keeps_what_is_the_same_and_runs_the_rest(self, copied):
        folder, notebooks, options = copied
        (folder / "out/00_good.html").unlink()
        again = RunOptions(options.out, options.parameters, html=True, resume=True)
        outcomes = outcomes_of(notebooks[:2], again)
        assert {name: outcome.status for name, outcome in outcomes.items()} == {
            "00_good": "kept",
            "01_bad": "failed",
        }
        assert outcomes["00_good"].headline == {"kd": 55.25, "gain": 7.0}
        assert (folder / "out/00_good.html").exists()

    def test_resume_runs_again_with_other_parameters_or_another_source(self, copied):
        folder, notebooks, options = copied
        other = RunOptions(options.out, {"seed": 4}, resume=True)
        assert outcomes_of(notebooks[:1], other)["00_good"].status == "ok"
        make_notebook(notebooks[0], SHOW, "print('edited')")
        assert outcomes_of(notebooks[:1], other)["00_good"].status == "ok"
        assert "edited" in printed(folder / "out/00_good.ipynb")


def started_by(process_id: int) -> list[int]:
    """Live descendants, from the process table."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True).stdout
    rows = [line.split() for line in lines.splitlines()]
    children = [int(pid) for pid, parent, stat in rows if int(parent) == process_id]
    return children + [grandchild for child in children for grandchild in started_by(child)]


def alive(process_id: int) -> bool:
    row = subprocess.run(["ps", "-o", "stat=", "-p", str(process_id)], capture_output=True, text=True)
    return bool(row.stdout.strip()) and not row.stdout.startswith("Z")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")
@pytest.mark.parametrize("way", ["Ctrl-C in a terminal", "SIGINT to the parent", "killed parent"])
def test_a_stopped_run_keeps_what_is_done_and_leaves_no_process(tmp_path, way):
    make_notebook(tmp_path / "notebooks/00_quick.ipynb", HEADLINE)
    busy = "import os\nopen('busy', 'w').close()\nsum(range(10**12))"
    make_notebook(tmp_path / "notebooks/01_busy.ipynb", busy)
    program = (
        "import kdnb.paths, pathlib, sys; kdnb.paths.PROJECT = pathlib.Path('.').resolve();"
        "from kdnb.commands.cli import main; main(prog_name='kdnb')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "run", "--preset", "smoke"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_until((tmp_path / "busy").exists)
        family = started_by(process.pid)
        assert len(family) == 2, "one worker and one kernel"
        if way == "Ctrl-C in a terminal":
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, signal.SIGINT if way == "SIGINT to the parent" else signal.SIGKILL)
        told = process.communicate(timeout=PATIENCE)[1]
    if way != "killed parent":
        assert process.returncode == 130
        assert "Go on with: kdnb run --preset smoke --resume" in told
        assert "Traceback" not in told
    else:
        wait_until(lambda: not any(alive(one) for one in family))
    assert [one for one in family if alive(one)] == []
    names = {path.name for path in (tmp_path / "executed").iterdir()}
    assert names == {"00_quick.ipynb", "summary.json", "results.csv"}
    assert list(json.loads((tmp_path / "executed/summary.json").read_text())["notebooks"]) == ["00_quick"]


def execute_with_patience(source: Path, out: Path) -> dict | None:
    """What ``worker.execute`` returns; an error if the notebook hangs."""

    def give_up(*_):
        raise TimeoutError("the notebook hangs")

    out.mkdir()
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        return worker.execute(source, out, {}, folder=out.parent, report=lambda message: None)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("forgotten", ["a cell", "the question after the last cell"])
def test_a_request_that_lies_unread_until_a_visitor_comes_does_not_stop_a_notebook(
    tmp_path, monkeypatch, forgotten
):
    """ipykernel 7 can leave a request in its socket, with all that follow over the same connection, until
    somebody else connects. Here the client holds its requests back in the same way."""
    sends, cells, held, released = [], [], [], []

    def is_forgotten(message):
        cells.extend(filter(None, [message["content"].get("code")]))
        if forgotten == "a cell":
            return message["content"].get("code") == "print(2)"
        return cells[-1:] == ["print(3)"] and message["msg_type"] == "kernel_info_request"

    class Forgetful(worker.ThisPython):
        def client(self, **options):
            client = super().client(**options)
            channel = client.shell_channel
            sends.append(channel.send)
            channel.send = hold_back
            return client

    def hold_back(message):
        if held or (is_forgotten(message) and not released):
            held.append(message)
        else:
            sends[0](message)

    class Visitor(keep_alive.AsyncKernelClient):
        def start_channels(self, **options):
            super().start_channels(**options)
            while held:
                released.append(held.pop(0))
                sends[0](released[-1])

    monkeypatch.setattr(keep_alive, "AsyncKernelClient", Visitor)

    monkeypatch.setattr(worker, "ThisPython", Forgetful)
    monkeypatch.setattr(worker.KeepAlive.__init__, "__kwdefaults__", {"interval": 0.5})
    source = make_notebook(tmp_path / "some.ipynb", "print(1)", "print(2)", "print(3)")
    assert execute_with_patience(source, tmp_path / "out") is None
    assert released
    assert held == []
    assert printed(tmp_path / "out" / "some.ipynb").split() == ["1", "2", "3"]


def test_an_answer_whose_announcement_is_lost_does_not_stop_a_notebook(tmp_path, monkeypatch):
    """While the client waits for the end of a cell, something else asks its socket what has come, as a
    message that it sends does. The socket then announces the answer to nobody."""
    missed = []

    class Deaf(worker.ThisPython):
        def client(self, **options):
            client = super().client(**options)
            channel, send = client.shell_channel, client.shell_channel.send

            def miss():
                time.sleep(2)  # the answer comes while the event loop is busy
                missed.append(zmq.Socket.shadow(channel.socket.underlying).get(zmq.EVENTS) & zmq.POLLIN)

            def send_and_miss(message):
                send(message)
                if message["content"].get("code") == SLEEP:
                    asyncio.get_running_loop().call_later(0.2, miss)

            channel.send = send_and_miss
            return client

    monkeypatch.setattr(worker, "ThisPython", Deaf)
    source = make_notebook(tmp_path / "some.ipynb", "print(1)", SLEEP, "print(3)")
    assert execute_with_patience(source, tmp_path / "out") is None
    assert missed == [zmq.POLLIN]
    assert printed(tmp_path / "out" / "some.ipynb").split() == ["1", "3"]


@pytest.mark.slow
def test_files_of_an_earlier_execution_are_not_mixed_with_new_ones(tmp_path):
    source = make_notebook(tmp_path / "00_a.ipynb", LEAVE)
    for seed in (1, 2):
        outcomes = outcomes_of([source], RunOptions(tmp_path / "out", {"seed": seed}))
        assert outcomes["00_a"].status == "ok"
    assert [path.name for path in (tmp_path / "out/00_a_files").iterdir()] == ["seed-2.txt"]


def test_the_package_imports_no_notebook_machinery():
    program = (
        "import sys, kdnb.headless, kdnb.headless.display, kdnb.commands.cli;"
        "heavy = {'IPython', 'ipywidgets', 'papermill', 'torch', 'nbconvert'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    trial = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert trial.returncode == 0, trial.stderr


def test_data_are_a_known_name_or_a_path_that_exists(tmp_path):
    parameter = Parameter("data", "str", '"shapes"', "")
    assert parameter.value("cifar10") == "cifar10"
    assert parameter.value(str(tmp_path)) == str(tmp_path)
    with pytest.raises(InputError, match=r"nothing at that path\) 'shaeps'\. Did you mean 'shapes'"):
        parameter.value("shaeps")
