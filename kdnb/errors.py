"""The exception for input that a user can correct, and a check that raises it."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message says what was found, what was expected and how to correct it. The command line prints the
    message without a traceback and exits with the status 2.
    """


def require_choice(kind: str, name: str, names: Iterable[str]) -> str:
    """Checks that a name is one of the known names.

    Args:
        kind: What the name stands for, such as ``"network"``. The message uses it.

        name: The name.

        names: The known names.

    Returns:
        The same name.

    Raises:
        InputError: If the name is not known. The message names the nearest known name, if one is near.

    Example:
        >>> require_choice("network", "resnet20", ["resnet8", "resnet20"])
        'resnet20'
        >>> require_choice("network", "resnet21", ["resnet8", "resnet20"])
        Traceback (most recent call last):
        kdnb.errors.InputError: Unknown network 'resnet21'. Did you mean 'resnet20'? Known: resnet8, resnet20.
    """
    names = list(names)
    if name in names:
        return name
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
    raise InputError(f"Unknown {kind} {name!r}.{hint} Known: {listed}.")
