"""Imports point down only: the rule of the README's section "How the code is laid out"."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kdnb

PACKAGE = Path(kdnb.__file__).parent

# Each room may import the rooms named here, and errors, files, paths and seeds.
ALLOWED = {
    "functional": set(),
    "networks": {"taps", "dynamic"},
    "taps": set(),
    "datasets": set(),
    "viz": set(),
    "method": set(),
    "analysis": {"taps", "functional"},
    "distillation": {"method", "functional", "networks"},
    "online": {"distillation", "method", "functional", "networks"},
    "diversity": {"method", "functional", "networks"},
    "dynamic": set(),
    "links": {"networks"},
    "methods": {
        *("distillation", "online", "diversity", "dynamic", "links"),
        *("functional", "method", "networks", "taps"),
    },
    "schedules": set(),
    "losslog": set(),
    "train": {"method", "functional", "datasets", "losslog", "schedules"},
    "spec": {"method", "methods", "networks", "schedules", "train"},
    "records": {"analysis", "spec", "methods"},
    "checkpoints": {"datasets", "networks"},
    "teachers": {"checkpoints", "datasets", "methods", "networks", "train"},
    "presets": {"schedules"},
    "runs": {
        *("spec", "records", "checkpoints", "teachers", "datasets"),
        *("method", "methods", "networks", "schedules", "train"),
    },
    "testing": {"method"},
    "exercises": {"analysis", "functional", "methods", "networks", "taps"},
    "timing": {"datasets"},
    "step_cost": {"method"},
    "bench": {"datasets", "method", "methods", "networks", "step_cost", "timing", "train"},
    "headless": set(),
    "doctor": set(),
    "training_commands": {"runs", "spec", "bench", "train"},
    "cli": {"headless", "doctor", "training_commands", "datasets", "methods", "networks", "spec"},
}
GROUND = {"errors", "files", "paths", "seeds"}
NOT_AT_IMPORT = {"IPython", "ipywidgets", "papermill"}


def modules(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """Dotted names that a file imports, anywhere or at its top level only."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("kdnb.")} - {"__version__"}


def test_every_room_has_its_rule():
    found = {path.stem for path in PACKAGE.glob("*.py")} | {p.name for p in PACKAGE.glob("[a-z]*/")}
    assert found - {"__init__", "__pycache__"} == set(ALLOWED) | GROUND


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_down(room):
    for path in modules(room):
        up = rooms_of(imported(path)) - ALLOWED[room] - GROUND - {room}
        assert not up, f"{path.name} imports {up}"


def test_methods_never_import_another_method():
    for path in (PACKAGE / "methods").glob("[a-z]*.py"):
        assert not {name for name in imported(path) if name.startswith("kdnb.methods")}


def test_training_names_no_method():
    text = (PACKAGE / "train.py").read_text()
    assert "LabelsOnly" not in text
    assert "KD" not in text


def test_only_the_ground_is_without_torch():
    for room in ("viz", *GROUND):
        for path in modules(room):
            assert not {n for n in imported(path) if n.split(".")[0].startswith("torch")}, path.name


def test_only_train_knows_fabric():
    for path in PACKAGE.rglob("*.py"):
        known = any(name.startswith("lightning_fabric") for name in imported(path))
        assert known == (path.name == "train.py"), path.name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_notebook_tools_are_imported_inside_functions(path):
    assert not {n.split(".")[0] for n in imported(path, top_level=True)} & NOT_AT_IMPORT


def test_files_fit_the_eye():
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 240}
    assert not long


def test_the_command_line_starts_without_torch():
    code = "import sys, kdnb.cli; sys.exit(bool({'torch', 'IPython', 'papermill'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
