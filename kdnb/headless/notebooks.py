"""The course's notebooks as the command line sees them: number, title, parameters."""

import ast
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kdnb.errors import InputError, require_choice
from kdnb.paths import course_folder

PRESETS = ("smoke", "quick", "paper")
NAMED_DATA = ("shapes", "cifar10", "cifar100")

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_READERS = {
    "int": (int, "a whole number, such as 3"),
    "float": (float, "a number, such as 0.05"),
    "bool": (lambda text: _TRUTH[text.lower()], "true or false"),
    "str": (str, "text"),
}


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's cell tagged ``parameters``: ``seed: int = 0   # help``."""

    name: str
    type: str
    default: str
    help: str

    def value(self, text: str) -> int | float | bool | str:
        """``text`` as the declared type. Raises InputError if it cannot be read as that."""
        reader, expected = _READERS[self.type]
        try:
            value = reader(text)
        except (ValueError, KeyError):
            raise InputError(
                f"Parameter {self.name}={text!r} is not of type {self.type}: expected {expected}. "
                f"The notebook's own value is {self.default}."
            ) from None
        if self.name == "preset":
            return require_choice("preset", value, PRESETS)
        if self.name == "data" and not Path(value).expanduser().exists():
            return require_choice("data set (and there is nothing at that path)", value, NAMED_DATA)
        return value


@dataclass(frozen=True)
class Notebook:
    """One notebook of the course, read but not run. ``source`` is the hash of what its cells say;
    outputs and metadata do not enter it."""

    path: Path
    title: str
    cells: int
    source: str
    parameters: dict[str, Parameter]

    @property
    def stem(self) -> str:
        return self.path.stem


def course_notebooks() -> list[Path]:
    """The numbered notebooks, in the order of the course. Raises InputError if there are none."""
    folder = course_folder("notebooks")
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise InputError(
            f"No numbered notebook (00_name.ipynb) in {folder}. Restore it with 'git checkout -- "
            "notebooks' in the clone."
        )
    return paths


def select(names: Iterable[str]) -> list[Path]:
    """The notebooks called ``0``, ``00`` or ``00_start_here``, in the order given; all if none is
    named. Raises InputError with the nearest one if a name is unknown."""
    paths = course_notebooks()
    chosen = [_named(name, paths) for name in names]
    return list(dict.fromkeys(chosen)) or paths


def _named(name: str, paths: list[Path]) -> Path:
    stems = {path.stem: path for path in paths}
    if not name.isdecimal():
        return stems[require_choice("notebook", Path(name).stem if name.endswith(".ipynb") else name, stems)]
    numbers = {int(path.stem[:2]): path for path in paths}
    if int(name) in numbers:
        return numbers[int(name)]
    nearest = min(numbers, key=lambda number: abs(number - int(name)))
    raise InputError(
        f"Unknown notebook {name!r}. Did you mean {numbers[nearest].stem!r}? Known: {', '.join(stems)}."
    )


def read_notebook(path: Path) -> Notebook:
    """Title, parameters and source of a notebook. Raises InputError if it is no notebook."""
    import papermill

    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        declared = papermill.inspect_notebook(str(path).replace("{", "{{").replace("}", "}}"))
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read as a notebook ({error}). Restore it with 'git checkout -- "
            f"{path.name}', or save it again in JupyterLab."
        ) from error
    told = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    told = [part for part in told if part[0] != "raw"]
    return Notebook(
        path=path,
        title=_title(text for kind, text in told if kind == "markdown"),
        cells=len(cells),
        source=hashlib.sha256(json.dumps(told).encode()).hexdigest(),
        parameters={name: _parameter(entry) for name, entry in declared.items()},
    )


def _title(texts: Iterable[str]) -> str:
    lines = (line for text in texts for line in text.splitlines())
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def _parameter(entry: dict[str, str]) -> Parameter:
    declared = entry["inferred_type_name"]
    if declared not in _READERS:
        try:
            declared = type(ast.literal_eval(entry["default"])).__name__
        except (ValueError, SyntaxError):
            declared = "str"
    declared = declared if declared in _READERS else "str"
    return Parameter(entry["name"], declared, entry["default"], entry["help"])


def parameter_values(notebooks: list[Notebook], pairs: Iterable[str]) -> dict[str, object]:
    """``name=value`` texts as typed values that every one of ``notebooks`` knows.

    Raises InputError for a text without ``=``, a name given twice, a name that one of the
    notebooks lacks, and a value that is not of the declared type.
    """
    values: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"Parameter {pair!r} has no value: expected name=value, as in seed=1.")
        if name in values:
            raise InputError(f"Parameter {name!r} is given twice. Keep one of them.")
        for notebook in notebooks:
            values[name] = _declared(name, notebook, notebooks).value(text)
    return values


def _declared(name: str, notebook: Notebook, notebooks: list[Notebook]) -> Parameter:
    having = [other.stem for other in notebooks if name in other.parameters]
    if name not in notebook.parameters and having:
        raise InputError(
            f"The notebook {notebook.stem} has no parameter {name!r}, which {', '.join(having)} "
            "knows. Run them apart: name the notebooks that are to take it."
        )
    if not notebook.parameters:
        raise InputError(f"The notebook {notebook.stem} has no parameters; {name!r} was given.")
    require_choice(f"parameter of the notebook {notebook.stem}", name, notebook.parameters)
    return notebook.parameters[name]
