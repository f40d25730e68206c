"""Where the course lives: folders found from the package, never from the working directory."""

from pathlib import Path

from kdnb.errors import InputError

PROJECT = Path(__file__).resolve().parent.parent


def course_folder(name: str) -> Path:
    """The course's ``notebooks`` or ``data`` folder.

    Raises InputError if kdnb was installed without them, as a wheel is.
    """
    folder = PROJECT / name
    if not folder.is_dir():
        raise InputError(
            f"The folder {name!r} is not beside the package ({PROJECT}). "
            "kdnb runs from a clone of its repository: install it there with 'pip install -e .'."
        )
    return folder
