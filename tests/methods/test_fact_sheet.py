"""The fact sheet tells the truth about sections, defaults and golden values of the methods."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from reference import wave

import kdnb
import kdnb.methods
from kdnb.functional import attention_map, kd_loss, normalized_mse
from kdnb.methods import METHODS
from kdnb.methods.attention_transfer import attention_transfer_loss

SHEET = Path(kdnb.methods.__file__).with_name("README.md").read_text()
COLUMNS = ["option", "default", "source", "meaning"]


def rows(section: str) -> list[list[str]]:
    """The cells of every table row, heads included."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def number(text: str) -> object:
    """The value that a default such as ``1 / 3`` or ``"order"`` stands for."""
    if division := re.fullmatch(r"(\d+) / (\d+)", text):
        return int(division[1]) / int(division[2])
    return ast.literal_eval(text)


def sections() -> dict[str, str]:
    """Sections by the name that METHODS has for them: "Labels only" is "labels-only", "DDNN + EKD" "ddnn"."""
    parts = re.split(r"^##+ (.+)$", SHEET, flags=re.MULTILINE)[1:]
    top = re.split(r"^## (.+)$", SHEET, flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True)) | dict(zip(top[::2], top[1::2], strict=True))
    return {heading.partition(" + ")[0].lower().replace(" ", "-"): text for heading, text in found.items()}


def documented(section: str) -> dict[str, list[str]]:
    """The rows of the section's table of options, by option."""
    table, inside = {}, False
    for line in section.splitlines():
        cells = rows(line)[0] if line.startswith("|") else []
        if cells == COLUMNS:
            inside = True
        elif not cells:
            inside = False
        elif inside and not cells[0].startswith("---"):
            table[cells[0].strip("`")] = cells
    return table


@pytest.mark.parametrize("name", METHODS)
def test_every_default_stands_in_the_table_of_its_section(name):
    assert name in sections(), f"kdnb/methods/README.md has no section for {name}"
    parameters = inspect.signature(METHODS[name]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    table = documented(sections()[name])
    assert {option: number(cells[1].strip("`")) for option, cells in table.items()} == defaults
    assert all(len(cells) == len(COLUMNS) and all(cells) for cells in table.values())


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("KD, T = 4", lambda m: [kd_loss(m["z_s"], m["z_t"], 4.0)]),
        (
            "AT, s1/t1, s2/t2, s3/t3",
            lambda m: [attention_transfer_loss([m[f"s{i}"]], [m[f"t{i}"]]) for i in "123"],
        ),
        (
            "FFSD, MSE of unit attention maps of s1 and g",
            lambda m: [normalized_mse(attention_map(m["s1"]), attention_map(m["g"]))],
        ),
        ("FFSD, MSE of unit maps s1 and g", lambda m: [normalized_mse(m["s1"], m["g"])]),
    ],
)
def test_golden_values_of_the_formulas(what, found):
    table = {row[0]: row[1] for row in rows(sections()["golden-values"]) if len(row) > 1}
    waves = r"S\(\[([\d, ]+)\]; ([.\d]+), ([.\d]+)(?:, ([.\d]+))?\)"
    tensors = {}
    for names, definitions in table.items():
        for name, (shape, *numbers) in zip(names.split(", "), re.findall(waves, definitions), strict=False):
            tensors[name] = wave(tuple(map(int, shape.split(","))), *(float(n) for n in numbers if n))
    expected = [float(value) for value in table[what].split(", ")]
    assert [value.item() for value in found(tensors)] == pytest.approx(expected, rel=1e-9)


def test_every_citation_names_a_section():
    """Written "methods/README.md, section X", or without the word "section"; a line may end in between."""
    root = Path(kdnb.__file__).parent
    files = [*root.rglob("*.py"), *Path(__file__).parents[1].rglob("*.py")]
    citation = re.compile(r"methods/README\.md`*[,)]\s+(?:sections?\s+)?\"?([A-Z]\w+)")
    cited = {path: citation.findall(path.read_text()) for path in files if path != Path(__file__)}
    headings = {heading.split()[0] for heading in re.findall(r"^##+ (.+)$", SHEET, flags=re.MULTILINE)}
    assert sum(map(len, cited.values())) > 40
    assert {path.name: set(names) - headings for path, names in cited.items() if set(names) - headings} == {}
