"""The one exception a user can mend, and the words that help to mend it."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something the user gave cannot be used: the message says what was found, what was expected,
    and how to mend it. The command line prints it without a traceback and exits with 2."""


def require_choice(kind: str, name: str, names: Iterable[str]) -> str:
    """``name`` if it is one of ``names``; otherwise raises with the nearest known name.

    >>> require_choice("network", "resnet20", ["resnet8", "resnet20"])
    'resnet20'
    """
    names = list(names)
    if name in names:
        return name
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
    raise InputError(f"Unknown {kind} {name!r}.{hint} Known: {listed}.")
