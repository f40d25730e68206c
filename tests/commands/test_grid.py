"""``kdnb run --grid``: combinations, folders, results, resuming, stopping, and what is refused."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import isfinite
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_course import make_notebook
from waiting import PATIENCE, wait_until

from kdnb.commands.cli import main
from kdnb.headless import Failure, Outcome
from kdnb.headless.grids import folder_name, read_grid, results_text
from kdnb.headless.notebooks import read_notebook, select


def kdnb(*arguments: str):
    return CliRunner().invoke(main, arguments)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_grid_holds_every_combination_with_the_last_list_fastest(course):
    notebooks = [read_notebook(path) for path in select(["4"])]
    combinations = read_grid(notebooks, ["seed=2,0", "show=yes, no"], fixed=[])
    assert combinations == [
        {"seed": 2, "show": True},
        {"seed": 2, "show": False},
        {"seed": 0, "show": True},
        {"seed": 0, "show": False},
    ]
    assert {type(value) for one in combinations for value in one.values()} == {int, bool}


def test_a_value_with_a_comma_is_written_in_quotes(course):
    words = 'depths: str = ""'
    path = make_notebook(course / "notebooks/07_depths.ipynb", parameters=words)
    combinations = read_grid([read_notebook(path)], ['depths="14,8",14'], fixed=[])
    assert combinations == [{"depths": "14,8"}, {"depths": "14"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["4", "--grid", "sed=0,1"],
            "Unknown parameter of the notebook 04_semckd 'sed'. Did you mean 'seed'",
        ),
        (["--grid", "lr=0.1,0.2"], "00_start_here has no parameter 'lr', which 04_semckd has"),
        (["--grid", "seed=0,one"], "seed='one' is not of type int"),
        (["--grid", "seed=0,01,1"], "--grid seed=0,01,1 holds the value 1 twice"),
        (["4", "--grid", "lr=0.1,1e-1"], "holds the value 1e-1 twice"),
        (["--grid", "seed"], "--grid 'seed' has no values"),
        (["--grid", "seed="], "--grid 'seed=' has no values"),
        (["--grid", "seed=0,,1"], "holds an empty value"),
        (["--grid", "seed=0,1,"], "holds an empty value"),
        (["--grid", "seed=0\n1"], "is not a list of values"),
        (["--grid", "seed=0", "--grid", "seed=1"], "--grid seed is given twice"),
        (["--grid", "seed=0,1", "-p", "seed=2"], "'seed' is given in --grid and in -p or --preset"),
        (["--grid", "preset=smoke,quick", "--preset", "smoke"], "'preset' is given in --grid and in -p or"),
        (["--grid", "preset=smoke,quik"], "Unknown preset 'quik'. Did you mean 'quick'"),
        (["--grid", "seed=0,1", "--jobs", "2"], "--jobs is for runs without --grid"),
        (["--workers", "2"], "are for runs with --grid"),
        (["--per-gpu", "2"], "are for runs with --grid"),
        (["--cluster", "tcp://127.0.0.1:1"], "are for runs with --grid"),
        (["--grid", "seed=0", "--cluster", "tcp://127.0.0.1:1", "--threads", "2"], "of this machine"),
        (["--grid", "seed=0", "--out", "file/executed"], "cannot be written"),
    ],
)
def test_a_grid_that_cannot_be_used_is_refused_before_anything_runs(course, monkeypatch, arguments, message):
    monkeypatch.chdir(course)
    (course / "file").write_text("")
    before = sorted(course.rglob("*"))
    result = kdnb("run", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("kdnb: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert sorted(course.rglob("*")) == before, "nothing was written"


VALUES = [
    ["1", "a", "A", "a/b", "a-b", "a b", "a~b", "..", ".", "~", "/", "ä", "Ä", "a" * 300, "a" * 301, "a,b=c"],
    [0.1, 1e-05, -1.0, float("inf")],
    [True, False],
]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: type(values[0]).__name__)
def test_folders_are_safe_and_differ_where_values_differ(tmp_path, values):
    names = [folder_name({"data": value}) for value in values]
    assert len({name.lower() for name in names}) == len(values), "also where a capital is no other letter"
    assert all(name.isascii() and name.isprintable() and not set(name) & set('/\\:*?"<>| ') for name in names)
    assert all(len(name) <= 60 and name[-1] != "." for name in names)


def test_folders_are_readable():
    assert folder_name({"seed": 1, "data": "shapes"}) == "seed=1,data=shapes"
    assert folder_name({"lr": 0.05, "show": True}) == "lr=0.05,show=true"
    assert folder_name({"data": "../My pictures"}).startswith("data=My-pictures~")


def test_the_name_of_a_long_combination_is_cut_and_stays_its_own():
    long = [{f"parameter_{number}": "x" * 30 for number in range(8)} | {"last": last} for last in (1, 2)]
    names = [folder_name(values) for values in long]
    assert len(set(names)) == 2
    assert all(len(name) <= 200 for name in names)


def test_the_results_have_a_row_an_execution_and_a_column_a_number():
    failure = Failure(3, "ValueError", "odd", "")
    text = results_text(
        ["seed", "data"],
        [
            ({"seed": 0, "data": "a,b"}, Outcome("00_a", "kept", 1.5, {"kd": 55.25, "seed": 3.0})),
            ({"seed": 1, "data": "c"}, Outcome("00_a", "failed", 2.0, {}, failure)),
            ({"seed": 1, "data": "c"}, Outcome("01_b", "ok", 2.0, {"ecd": -1.0})),
        ],
    )
    assert text == (
        "notebook,seed,data,status,seconds,kd,headline seed,ecd\n"
        '00_a,0,"a,b",ok,1.5,55.25,3.0,\n'
        "00_a,1,c,failed,2.0,,,\n"
        "01_b,1,c,ok,2.0,,,-1.0\n"
    )


GOOD = """
import os
from kdnb.headless import headline
print(preset, os.getcwd(), os.environ["OMP_NUM_THREADS"])
headline(gain=2.5 * seed)
from kdnb.files import files_folder
(files_folder() / "left.bin").write_bytes(bytes([seed, 255]))
"""
COMBINATIONS = ["seed=0", "seed=1"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A grid of two values with a good notebook and one that fails with one of them, on two local workers."""
    folder = tmp_path_factory.mktemp("grid")
    make_notebook(folder / "notebooks/00_good.ipynb", GOOD)
    make_notebook(folder / "notebooks/01_odd.ipynb", "if seed == 1: raise KeyError('one')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdnb.paths.PROJECT", folder)
        patch.chdir(folder)
        options = ["--preset", "smoke", "--html", "--workers", "2", "--threads", "3"]
        result = kdnb("run", "--grid", "seed=0,1", *options)
    return folder, result


@pytest.fixture
def again(executed, monkeypatch) -> Callable:
    """Runs the grid again, with other arguments."""
    monkeypatch.setattr("kdnb.paths.PROJECT", executed[0])
    monkeypatch.chdir(executed[0])
    return lambda *arguments: kdnb("run", "--preset", "smoke", *arguments)


@pytest.mark.slow
class TestExecuted:
    def test_a_failing_combination_does_not_stop_the_others(self, executed):
        result = executed[1]
        assert result.exit_code == 1, result.output
        table = [line.split()[:2] for line in result.stdout.splitlines()[1:]]
        assert table == [
            ["seed=0/00_good", "ok"],
            ["seed=0/01_odd", "ok"],
            ["seed=1/00_good", "ok"],
            ["seed=1/01_odd", "failed"],
        ]
        assert "seed=1/01_odd failed at In [3]: KeyError: 'one'" in result.stderr

    def test_results_csv_names_every_execution(self, executed):
        found = rows(executed[0] / "executed/results.csv")
        assert [(row["notebook"], row["seed"], row["status"], row["gain"]) for row in found] == [
            ("00_good", "0", "ok", "0.0"),
            ("01_odd", "0", "ok", ""),
            ("00_good", "1", "ok", "2.5"),
            ("01_odd", "1", "failed", ""),
        ]
        assert all(isfinite(float(row["seconds"])) for row in found)

    def test_every_combination_has_a_folder_of_its_own(self, executed):
        out = executed[0] / "executed"
        assert {path.name for path in out.iterdir()} == {"results.csv", *COMBINATIONS}
        pages = {"00_good.ipynb", "00_good.html", "01_odd.ipynb", "01_odd.html"}
        names = pages | {"00_good_files", "summary.json", "results.csv"}
        assert all({path.name for path in (out / one).iterdir()} == names for one in COMBINATIONS)
        for number, one in enumerate(COMBINATIONS):
            assert (out / one / "00_good_files/left.bin").read_bytes() == bytes([number, 255])
            notebook = json.loads((out / one / "00_good.ipynb").read_text())
            parameters = {"preset": "smoke", "seed": number}
            assert notebook["metadata"]["papermill"]["parameters"] == parameters
            assert json.loads((out / one / "summary.json").read_text())["notebooks"]["00_good"][
                "parameters"
            ] == (parameters)

    def test_the_kernel_has_the_worker_s_threads_and_the_user_s_folder(self, executed):
        text = (executed[0] / "executed/seed=1/00_good.ipynb").read_text()
        assert f"smoke {executed[0]} 3" in text

    def test_resume_keeps_what_is_finished_and_needs_no_workers(self, executed, again, monkeypatch):
        monkeypatch.setattr("kdnb.commands.grid.connected", no_workers)
        before = rows(executed[0] / "executed/results.csv")
        result = again("0", "--grid", "seed=1,0", "--resume")
        assert result.exit_code == 0, result.output
        assert [line.split()[1] for line in result.stdout.splitlines()[1:]] == ["kept", "kept"]
        assert rows(executed[0] / "executed/results.csv") == [before[2], before[0]]

    @pytest.mark.parametrize("arguments", [["1", "--grid", "seed=0,1"], ["0", "--grid", "seed=0,2"]])
    def test_resume_runs_what_failed_or_is_new(self, again, monkeypatch, arguments):
        monkeypatch.setattr("kdnb.commands.grid.connected", no_workers)
        result = again(*arguments, "--resume")
        assert isinstance(result.exception, WorkersWanted)


class WorkersWanted(Exception):
    pass


@contextmanager
def no_workers(*_) -> Iterator[None]:
    raise WorkersWanted
    yield


def processes() -> list[tuple[int, int, str]]:
    """Live processes: number, parent, command."""
    command = ["ps", "-ww", "-eo", "pid=,ppid=,stat=,args="]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    found = [line.split(None, 3) for line in lines]
    return [(int(row[0]), int(row[1]), row[3]) for row in found if len(row) > 3 and row[2][0] != "Z"]


def started_by(process_id: int) -> list[int]:
    children = [pid for pid, parent, _ in processes() if parent == process_id]
    return children + [grandchild for child in children for grandchild in started_by(child)]


def alive(process_id: int) -> bool:
    return process_id in {pid for pid, _, _ in processes()}


PROGRAM = (
    "import kdnb.paths, pathlib; kdnb.paths.PROJECT = pathlib.Path('.').resolve();"
    "from kdnb.commands.cli import main; main(prog_name='kdnb')"
)
BUSY = """
import os, time
from pathlib import Path
Path(f"busy-{os.getpid()}").touch()
while not Path("go on").exists():
    time.sleep(0.05)
from kdnb.headless import headline
headline(seed=seed)
"""


@pytest.fixture
def cluster() -> Iterator[str]:
    """A scheduler and a worker that somebody else has started."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        scheduler = stack.enter_context(
            subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", *words], **quiet)
        )
        stack.callback(scheduler.terminate)
        lines = iter(scheduler.stderr.readline, "")
        address = next(line.split()[-1] for line in lines if "Scheduler at:" in line)
        words = [address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"]
        quiet["stderr"] = subprocess.DEVNULL
        worker = stack.enter_context(
            subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_worker", *words], **quiet)
        )
        stack.callback(worker.terminate)
        yield address


def kernels(folder: Path) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in folder.glob("busy-*")]


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """A grid of two combinations whose notebooks wait for a file, until the first has a kernel."""
    make_notebook(folder / "notebooks/00_busy.ipynb", BUSY)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", "--grid", "seed=0,1", "--out", "there", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            wait_until(lambda: kernels(folder))
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")
@pytest.mark.parametrize("way", ["Ctrl-C in a terminal", "killed"])
@pytest.mark.parametrize("where", ["here", "on a cluster"])
def test_a_stopped_grid_leaves_no_kernel(tmp_path, request, way, where):
    arguments = ["--workers", "1"] if where == "here" else ["--cluster", request.getfixturevalue("cluster")]
    with running(tmp_path, *arguments) as process:
        (kernel,) = kernels(tmp_path)
        program = next(parent for pid, parent, _ in processes() if pid == kernel)
        family = {*started_by(process.pid), program, kernel}
        if way == "killed":
            process.kill()
            process.wait()
        else:
            os.killpg(process.pid, signal.SIGINT)
            told = process.communicate(timeout=PATIENCE)[1]
            assert process.returncode == 130
            assert "Stopped: 0 of 2 executions are done and kept in there. Go on with: kdnb run" in told
            assert "--resume" in told
            assert "Traceback" not in told, told
        wait_until(lambda: not any(alive(one) for one in family))
    assert len(kernels(tmp_path)) == 1, "the other combination was not begun"


@pytest.mark.slow
def test_a_cluster_sends_notebooks_back_and_a_killed_worker_costs_only_its_notebook(tmp_path, cluster):
    with running(tmp_path, "--cluster", cluster) as process:
        (kernel,) = kernels(tmp_path)
        owner = {pid: parent for pid, parent, _ in processes()}
        worker = owner[owner[kernel]]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not alive(kernel))
        (tmp_path / "go on").touch()
        told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    found = rows(tmp_path / "there/results.csv")
    assert [(row["seed"], row["status"], row["headline seed"]) for row in found] == [
        ("0", "ok", "0.0"),
        ("1", "ok", "1.0"),
    ]
    assert (tmp_path / "there/seed=1/00_busy.ipynb").exists()
    assert len(kernels(tmp_path)) == 3, "one of them twice"
