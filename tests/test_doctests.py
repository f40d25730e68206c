"""Every example in a docstring of the package runs and prints what it says."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import kdnb

PACKAGE = Path(kdnb.__file__).parent


def modules_with_examples() -> list[str]:
    """Dotted names of the modules whose text holds an example. They are read, not imported, to find out."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text():
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            found.append(".".join(part for part in parts if part != "__init__"))
    return found


def test_examples_are_found():
    assert {"kdnb.errors", "kdnb.functional", "kdnb.networks"} <= set(modules_with_examples())


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_run(name):
    results = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0, "the captured output shows the example, what it printed and what it should"
