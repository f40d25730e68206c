"""Grids: the combinations of parameter values of ``kdnb run --grid``, their folders, and their results."""

import csv
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Sequence

from kdnb.errors import InputError
from kdnb.headless.notebooks import Notebook, parameter_values
from kdnb.headless.worker_pool import Outcome

# What every file system keeps apart. One that does not tell a from A would mix capital letters up.
_PLAIN = re.compile(r"[a-z0-9_+-]([a-z0-9_.+-]{0,30}[a-z0-9_+-])?")
_LONGEST_FOLDER = 200  # characters; most file systems allow 255 bytes


def read_grid(
    notebooks: list[Notebook], lists: Iterable[str], fixed: Iterable[str]
) -> list[dict[str, object]]:
    """Converts texts of the form ``name=value,value`` to the combinations of their values.

    A value that contains a comma is written in double quotes, as in ``depths="14,8","14"``.

    Args:
        notebooks: The notebooks that will receive the values.

        lists: The texts.

        fixed: The names of parameters that have one value in all combinations.

    Returns:
        The typed values by name, a dict for each combination. The last list varies fastest.

    Raises:
        InputError: If a text names no values, an empty value or one value twice, if a name is given twice or
            is among those that are fixed, or if a name or value does not fit a notebook.
    """
    axes: dict[str, list[object]] = {}
    for text in lists:
        name, equals, listed = text.partition("=")
        if not equals or not listed.strip():
            raise InputError(f"--grid {text!r} has no values: expected name=value,value, as in seed=0,1,2.")
        if name in axes:
            raise InputError(f"--grid {name} is given twice. Write all values in one list.")
        if name in fixed:
            raise InputError(
                f"Parameter {name!r} is given in --grid and in -p or --preset. Keep one of them."
            )
        axes[name] = _values(notebooks, name, listed)
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _values(notebooks: list[Notebook], name: str, listed: str) -> list[object]:
    values: dict[str, object] = {}
    try:
        texts = next(csv.reader([listed], skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"--grid {name}={listed!r} is not a list of values ({error}).") from error
    for text in texts:
        if not text.strip():
            raise InputError(f"--grid {name}={listed} holds an empty value. Take the surplus comma out.")
        value = parameter_values(notebooks, [f"{name}={text}"])[name]
        if repr(value) in values:
            raise InputError(f"--grid {name}={listed} holds the value {text} twice. Keep one of them.")
        values[repr(value)] = value
    return list(values.values())


def folder_name(values: dict[str, object]) -> str:
    """A readable name for the folder of a combination.

    Names are safe on every file system, and differ where values differ. They depend on the combination
    alone, so that a larger grid finds the folders of a smaller one.

    Args:
        values: The values of the combination by name.

    Returns:
        The name.

    Example:
        >>> folder_name({"seed": 1, "data": "shapes"})
        'seed=1,data=shapes'
        >>> folder_name({"data": "My pictures/2026"})
        'data=My-pictures-2026~b56905bf'
    """
    name = ",".join(f"{parameter}={_word(value)}" for parameter, value in values.items())
    if len(name) <= _LONGEST_FOLDER:
        return name
    return f"{name[: _LONGEST_FOLDER - 20]}~{_digest(name)}"


def _word(value: object) -> str:
    """The value as a part of a file name: itself if it is plain, else what is readable of it and a hash."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_.+]+", "-", text)[-30:].strip("-.")
    return f"{readable or 'value'}~{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def results_text(parameters: Sequence[str], rows: Iterable[tuple[dict[str, object], Outcome]]) -> str:
    """Formats outcomes as a table of comma-separated values, with a row for each.

    Args:
        parameters: The names of the grid's parameters.

        rows: The values and the outcome of each execution.

    Returns:
        The text of the table. Its columns are the notebook, the parameters, the status, the seconds and
        every headline number. A number that has the name of another column is called ``headline NAME``.
        The status is ``ok`` also if the outcome is that of an earlier run.

    Example:
        >>> text = results_text(["seed"], [({"seed": 3}, Outcome("00_a", "kept", 2.0, {"kd": 55.2}))])
        >>> text.splitlines()
        ['notebook,seed,status,seconds,kd', '00_a,3,ok,2.0,55.2']
    """
    rows = list(rows)
    fixed = ["notebook", *parameters, "status", "seconds"]
    numbers = list(dict.fromkeys(name for _, outcome in rows for name in outcome.headline))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*fixed, *(f"headline {name}" if name in fixed else name for name in numbers)])
    for values, outcome in rows:
        status = "ok" if outcome.status == "kept" else outcome.status
        start = [outcome.notebook, *(values[name] for name in parameters), status, outcome.seconds]
        writer.writerow([*start, *(outcome.headline.get(name, "") for name in numbers)])
    return file.getvalue()
