"""Imports point down only: the rule of the README's section "How the code is laid out"."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kdnb

PACKAGE = Path(kdnb.__file__).parent

# Each room may import the rooms named here, and the ground. A name with a dot is a room inside a room.
ALLOWED = {
    "functional": set(),
    "taps": set(),
    "networks": {"taps"},
    "datasets": set(),
    "viz": set(),
    "method": {"datasets"},
    "analysis": {"taps", "functional"},
    "methods.families": {"functional", "method", "networks", "taps", "datasets"},
    "methods": {"methods.families", "functional", "method", "networks", "taps", "datasets"},
    "train": {"method", "functional", "datasets"},
    "runs": {"analysis", "datasets", "functional", "method", "methods", "networks", "train"},
    "studies": {
        "analysis",
        "datasets",
        "functional",
        "method",
        "methods",
        "methods.families",
        "networks",
        "runs",
        "train",
        "viz",
    },
    "testing": {"datasets", "method"},
    "exercises": {"analysis", "functional", "methods", "networks", "taps"},
    "headless": set(),
    "commands.bench": {"datasets", "functional", "method", "methods", "networks", "runs", "studies", "train"},
    "commands": {"commands.bench", "datasets", "headless", "methods", "networks", "runs", "studies", "train"},
}
GROUND = {"errors", "files", "paths", "seeds", "tasks"}
NOT_AT_IMPORT = {"IPython", "ipywidgets", "papermill", "dask", "distributed"}
LINES = 50  # of a function, its docstring left out
LONGER: dict[str, str] = {}  # functions that are longer, each with its reason


def room_of(path: Path) -> str:
    """The room in which a file of the package lies."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:2]) if ".".join(parts[:2]) in ALLOWED else parts[0]


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


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
    """The rooms of kdnb among imported names."""
    rooms = set()
    for name in names:
        if name.startswith("kdnb."):
            _, *parts = name.split(".")
            rooms.add(".".join(parts[:2]) if ".".join(parts[:2]) in ALLOWED else parts[0])
    return rooms - {"__version__"}


def functions() -> list[tuple[str, int]]:
    """Every function of the package, named by its file, with its lines but for the docstring."""
    found = []
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                words = node.body[0] if ast.get_docstring(node) else None
                lines = node.end_lineno - node.lineno + 1
                lines -= words.end_lineno - words.lineno + 1 if words else 0
                found.append((f"{path.relative_to(PACKAGE).as_posix()}:{node.name}", lines))
    return found


def test_every_room_has_its_rule():
    assert {room_of(path) for path in files()} == set(ALLOWED) | GROUND


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path):
    room = room_of(path)
    up = rooms_of(imported(path)) - ALLOWED.get(room, set()) - GROUND - {room}
    assert not up, f"{path.relative_to(PACKAGE)} imports {up}"


def test_no_rooms_import_each_other():
    for room, below in ALLOWED.items():
        for other in below:
            assert room not in ALLOWED.get(other, set()), f"{room} and {other}"


def test_methods_never_import_another_method():
    for path in (PACKAGE / "methods").rglob("*.py"):
        own = path.relative_to(PACKAGE / "methods").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        others = {name.split(".")[2] for name in imported(path) if name.startswith("kdnb.methods.")}
        assert others <= {own, "families"}, path.name


def test_families_import_no_method():
    for path in (PACKAGE / "methods" / "families").glob("*.py"):
        others = {name.split(".")[2] for name in imported(path) if name.startswith("kdnb.methods.")}
        assert others <= {"families"}, path.name


def test_training_names_no_method():
    for path in (PACKAGE / "train").glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & set(kdnb_methods()), path.name


def kdnb_methods() -> list[str]:
    from kdnb import methods

    return [kind.__name__ for kind in methods.METHODS.values()]


def test_only_the_ground_and_pictures_are_without_torch():
    for path in files():
        if room_of(path) in {"viz", *GROUND}:
            assert not {n for n in imported(path) if n.split(".")[0].startswith("torch")}, path.name


def test_only_train_knows_fabric():
    for path in files():
        if any(name.startswith("lightning_fabric") for name in imported(path)):
            assert room_of(path) == "train", path.name


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_notebook_tools_are_imported_inside_functions(path):
    assert not {n.split(".")[0] for n in imported(path, top_level=True)} & NOT_AT_IMPORT


def test_functions_fit_the_eye():
    long = {name for name, lines in functions() if lines > LINES}
    assert long == set(LONGER), "shorten them, or name them in LONGER with the reason"


def test_the_command_line_starts_without_torch():
    modules = "{'torch', 'IPython', 'papermill'}"
    code = f"import sys, kdnb.commands.cli; sys.exit(bool({modules} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
