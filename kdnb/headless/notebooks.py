"""The notebooks of the course as the command line reads them: numbers, titles and parameters."""

import ast
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kdnb.errors import InputError, require_choice
from kdnb.paths import course_folder

PRESETS = ("smoke", "quick", "paper")
NAMED_DATA = ("shapes", "shapes-v1", "cifar10", "cifar100")

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_READERS = {
    "int": (int, "a whole number, such as 3"),
    "float": (float, "a number, such as 0.05"),
    "bool": (lambda text: _TRUTH[text.lower()], "true or false"),
    "str": (str, "text"),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook, read from a line such as ``seed: int = 0   # help``.

    Such lines stand in the notebook's cell that is tagged ``parameters``.

    Attributes:
        name: Its name.

        type: The name of its type: int, float, bool or str.

        default: The source text of its default value.

        help: The comment at the end of the line.
    """

    name: str
    type: str
    default: str
    help: str

    def value(self, text: str) -> int | float | bool | str:
        """Converts a text from the command line to the parameter's type.

        Args:
            text: The text.

        Returns:
            The value.

        Raises:
            InputError: If the text cannot be read as that type, or is not a known preset or data set.
        """
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
    """One notebook of the course, which was read but not run.

    Attributes:
        path: Its file.

        title: Its first heading.

        cells: The number of its cells.

        source: A hash of the text of its cells. Outputs and metadata do not change it.

        parameters: Its parameters by name.
    """

    path: Path
    title: str
    cells: int
    source: str
    parameters: dict[str, Parameter]

    @property
    def stem(self) -> str:
        """The file's name without its suffix, such as ``00_start_here``."""
        return self.path.stem


def course_notebooks() -> list[Path]:
    """Lists the numbered notebooks in the order of the course.

    Returns:
        Their files.

    Raises:
        InputError: If there are none.
    """
    folder = course_folder("notebooks")
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise InputError(
            f"No numbered notebook (00_name.ipynb) in {folder}. Restore it with 'git checkout -- "
            "notebooks' in the clone."
        )
    return paths


def select(names: Iterable[str]) -> list[Path]:
    """Finds notebooks by number or name.

    Args:
        names: Numbers or names, such as ``0``, ``00`` or ``00_start_here``.

    Returns:
        Their files in the order given and without repetitions, or all notebooks if no name is given.

    Raises:
        InputError: If a name is unknown. The message names the nearest notebook.
    """
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
    """Reads the title, the parameters and the source of a notebook.

    Args:
        path: The file.

    Returns:
        The notebook.

    Raises:
        InputError: If the file cannot be read as a notebook.
    """
    import papermill

    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        declared = papermill.inspect_notebook(str(path).replace("{", "{{").replace("}", "}}"))
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read as a notebook ({error}). Restore it with 'git checkout -- "
            f"{path.name}', or save it again in JupyterLab."
        ) from error
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    texts = [part for part in texts if part[0] != "raw"]
    return Notebook(
        path=path,
        title=_title(text for kind, text in texts if kind == "markdown"),
        cells=len(cells),
        source=hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
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
    """Converts texts of the form ``name=value`` to typed values of parameters that every notebook has.

    Args:
        notebooks: The notebooks that will receive the values.

        pairs: The texts.

    Returns:
        The values by name.

    Raises:
        InputError: If a text has no ``=``, if a name is given twice, if one of the notebooks has no parameter
            of that name, or if a value is not of the declared type.
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
            "has. Name only the notebooks that have it, and run the others separately."
        )
    if not notebook.parameters:
        raise InputError(f"The notebook {notebook.stem} has no parameters; {name!r} was given.")
    require_choice(f"parameter of the notebook {notebook.stem}", name, notebook.parameters)
    return notebook.parameters[name]
