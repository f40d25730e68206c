"""A method's options: its keyword arguments, read from words or from Python, brought to one form.

The annotations of the constructor say what an option is. They are read here and nowhere else: bool, int,
float, str, ``Literal`` words, tuples of one kind, and unions of these.
"""

import inspect
from math import isfinite
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from kdnb.errors import InputError, require_choice
from kdnb.method import Method

Option = bool | int | float | str | None | tuple["Option", ...]


def method_options(method: type[Method]) -> dict[str, Option]:
    """A method's keyword arguments and their defaults: its hyperparameters.

    Args:
        method: The class.

    Returns:
        The defaults by name, in the order of the constructor.
    """
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def canonical_options(name: str, method: type[Method], options: dict[str, object]) -> dict[str, Option]:
    """Options in their one form: 2 becomes 2.0 where a float is meant, and defaults are left out.

    Args:
        name: Of the method, for messages.

        method: The class.

        options: Values by name, as a user of Python gives them, or as they were read from JSON.

    Raises:
        InputError: For an option that the method does not have, or a value of another type.
    """
    defaults, kinds = method_options(method), get_type_hints(method.__init__)
    found = {}
    for option, value in options.items():
        require_choice(f"option of {name}", option, defaults)
        found[option] = _canonical(option, value, kinds[option])
    return {option: value for option, value in found.items() if value != defaults[option]}


def recorded_options(method: type[Method], options: dict[str, object]) -> dict[str, Option]:
    """Options of a record in today's form; those that the method no longer has stay as they are.

    Args:
        method: The class.

        options: As they were read from JSON.
    """
    kinds = get_type_hints(method.__init__)
    return {
        option: _canonical(option, value, kinds[option]) if option in kinds else value
        for option, value in options.items()
    }


def options_from_words(name: str, method: type[Method], words: list[str]) -> dict[str, Option]:
    """Options from ``name=value`` words, as the command line takes them.

    Numbers are written as usual, ``true`` and ``false`` for a bool, and a tuple with commas: ``depths=14,8``.
    A tuple inside a tuple is written with dashes: ``depths=3-3-2,2-2-2``.

    Args:
        name: Of the method, for messages.

        method: The class.

        words: Later words win.

    Raises:
        InputError: For a word without ``=``, an option that the method does not have, or a value of
            another type.
    """
    defaults, kinds = method_options(method), get_type_hints(method.__init__)
    found = {}
    for word in words:
        option, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"An option is given as name=value, found {word!r}.")
        require_choice(f"option of {name}", option, defaults)
        found[option] = _read(option, value, kinds[option])
    return found


def option_word(value: Option) -> str:
    """A value as the command line writes it.

    >>> option_word((14, (2, 2, 1)))
    '14,2-2-1'
    """
    if isinstance(value, tuple):
        parts = ["-".join(map(option_word, p)) if isinstance(p, tuple) else option_word(p) for p in value]
        return ",".join(parts)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _canonical(name: str, value: object, kind: object) -> Option:
    """``value`` as ``kind`` has it."""
    if _is_union(kind):
        return _first(name, value, kind, _canonical)
    if get_origin(kind) is Literal:
        return require_choice(name, value, get_args(kind))
    if get_origin(kind) is tuple:
        if isinstance(value, str):  # how the first edition kept a tuple in a record
            return _read(name, value, kind)
        if isinstance(value, tuple | list):
            return tuple(_canonical(name, part, get_args(kind)[0]) for part in value)
    elif kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if not _finite(value):
            raise InputError(f"{name} must be a finite number, found {value!r:.40}.")
        if kind is float or float(value).is_integer():
            return kind(value)
    elif kind in (bool, str, NoneType) and isinstance(value, kind):
        return value
    raise InputError(f"{name} is {_named(kind)}, found {value!r}.")


def _read(name: str, word: str, kind: object, separator: str = ",") -> Option:
    """The value of ``kind`` that a word says."""
    if _is_union(kind):
        return _first(name, word, kind, lambda *arguments: _read(*arguments, separator))
    if get_origin(kind) is tuple:
        return tuple(_read(name, part.strip(), get_args(kind)[0], "-") for part in word.split(separator))
    if get_origin(kind) is Literal:
        return require_choice(name, word, get_args(kind))
    known = {bool: {"true": True, "false": False}, NoneType: {"none": None}}
    try:
        value = known[kind][word.lower()] if kind in known else kind(word)
    except (ValueError, KeyError):
        raise InputError(f"{name} is {_named(kind)}, found {word!r}.") from None
    return _canonical(name, value, kind) if kind in (int, float) else value


def _first(name: str, value: object, kind: object, convert: object) -> Option:
    """The first member of a union that takes the value."""
    for member in get_args(kind):
        try:
            return convert(name, value, member)
        except InputError:
            continue
    raise InputError(f"{name} is {_named(kind)}, found {value!r}.")


def _finite(value: float) -> bool:
    try:
        return isfinite(float(value))
    except OverflowError:  # a whole number beyond every float
        return False


def _is_union(kind: object) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _named(kind: object) -> str:
    """A kind in words: "an int", "a tuple of int"."""
    if _is_union(kind):
        return " or ".join(map(_named, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a tuple of {_named(get_args(kind)[0]).removeprefix('an ').removeprefix('a ')}"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if kind is NoneType:
        return "none"
    return "an int" if kind is int else f"a {kind.__name__}"
