"""The notebooks: lint over the JSON, and a smoke run from another folder. nbval compares the stored
outputs (pyproject.toml, and conftest.py beside it)."""

import ast
import json
import re
import statistics
import subprocess
import sys
from html import escape
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from kdnb.datasets.shapes import CLASSES, draw
from kdnb.exercises import LESSONS
from kdnb.paths import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("[0-9]*.ipynb"))
IGNORED = "nbval-ignore-output"
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users|var)/|\\Users\\|file://")


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code" and cell.source.strip()]


def prose(path: Path) -> str:
    return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


def test_the_course_begins():
    assert [path.stem for path in NOTEBOOKS] == [
        "00_start_here",
        "01_dark_knowledge",
        "02_looking_inside",
        "03_srrl",
        "04_semckd",
        "05_ffsd",
        "06_ecd",
        "07_ddnn_ekd",
    ]


def test_it_is_valid_and_says_which_kernel(notebook):
    content = read(notebook)
    nbformat.validate(content)
    assert content.metadata.kernelspec.name == "python3"


def test_every_code_cell_was_executed_in_order_without_error(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_it_begins_with_a_question_a_claim_and_a_card(notebook):
    title, card = (cell.source for cell in read(notebook).cells[:2])
    assert re.match(r"# \d\d · .*\?\n", title)
    assert "**Claim.**" in title
    assert "**Time**" in card


def test_parameters_are_typed_scalars_with_help(notebook):
    (cell,) = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    for line in cell.source.splitlines():
        assert re.fullmatch(r"\w+: (str|int|float|bool) = [^#]+  # [^=]+", line), line
    assert cell.source.startswith('preset: str = "quick"')


def test_cells_are_short_and_do_one_thing(notebook):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    assert max(lengths) <= 25
    assert statistics.median(lengths) <= 10
    assert all(len(line) <= 110 for cell in code_cells(notebook) for line in cell.source.splitlines())
    assert not [c for c in code_cells(notebook) if c.source.rstrip().endswith(";")]


def test_the_size_is_a_lesson_not_a_book(notebook):
    words = len(prose(notebook).split())
    lines = sum(len(cell.source.splitlines()) for cell in code_cells(notebook))
    figures = [o for cell in code_cells(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert 1200 <= words <= 5700
    assert 70 <= lines <= 440
    assert 4 <= len(figures) <= 12


def test_every_figure_has_its_caption_as_alternative_text(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata["image/png"]["alt"]
                assert len(alt.split()) >= 6
                assert output.data["text/plain"] == f"Figure: {alt}"
                assert f'alt="{escape(alt)}"' in output.data["text/html"]
                assert len(output.data["image/png"]) * 3 / 4 < 150_000


def test_a_paragraph_follows_every_figure(notebook):
    cells = read(notebook).cells
    for number, cell in enumerate(cells):
        if cell.cell_type == "code" and any("image/png" in o.get("data", {}) for o in cell.outputs):
            near = cells[number + 1 : number + 3]
            assert any(c.cell_type == "markdown" for c in near), cell.source[-80:]


def test_nothing_stored_names_a_machine_or_a_time(notebook):
    for cell in code_cells(notebook):
        text = json.dumps([o for o in cell.outputs]) if IGNORED not in tags(cell) else ""
        text = re.sub(r'"image/png": "[^"]*"|base64,[^"]*"', "", text)
        assert not MACHINE.search(cell.source + text)


def test_widgets_are_ignored_and_have_a_static_twin(notebook):
    cells = code_cells(notebook)
    for cell in cells:
        if "interact(" in cell.source:
            assert IGNORED in tags(cell)
            before = cells[cells.index(cell) - 1]
            assert any("image/png" in o.get("data", {}) for o in before.outputs)


def test_every_exercise_and_question_is_asked(notebook):
    source = "\n".join(cell.source for cell in code_cells(notebook))
    module = LESSONS[notebook.stem[:2]]
    for name in module.EXERCISES:
        assert re.search(rf'(check|bug_hunt)\("{name}"', source), name
    for question in module.QUESTIONS:
        assert f'predict("{question}"' in source


def test_it_uses_only_public_names(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("kdnb"):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")]


def test_links_between_notebooks_lead_somewhere(notebook):
    for target in re.findall(r"\]\((\w+\.ipynb)\)", prose(notebook)):
        assert (notebook.parent / target).exists(), target


@pytest.mark.notebook
@pytest.mark.slow
def test_the_smoke_preset_runs_from_another_folder_on_pictures(tmp_path):
    """Drawn shapes, saved as PNG files of another size, read back as anybody's pictures. The shapes
    themselves are what nbval's run of the notebooks learns from."""
    pictures = draw(24 * 12, seed=5)
    for number, (image, label) in enumerate(zip(pictures.images, pictures.labels, strict=True)):
        place = tmp_path / "pictures" / CLASSES[int(label) // 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).resize((50, 40)).save(place / f"{number}.png")
    words = ["run", "--preset", "smoke", "-p", "data=pictures", "--out", "there"]
    command = [sys.executable, "-m", "kdnb.commands.cli", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "there" / "summary.json").read_text())["notebooks"]
    assert {name: record["status"] for name, record in summary.items()} == {
        path.stem: "ok" for path in NOTEBOOKS
    }
    assert all(record["headline"] for record in summary.values())
