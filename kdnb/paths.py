"""The folders of the course. They are found from the place of the package, not from the working directory."""

from pathlib import Path

from kdnb.errors import InputError

PROJECT = Path(__file__).resolve().parent.parent


def course_folder(name: str) -> Path:
    """The path of a folder of the course.

    Args:
        name: The name of the folder, ``"notebooks"`` or ``"data"``.

    Returns:
        The path.

    Raises:
        InputError: If the folder is not there. A wheel of kdnb, for example, does not contain it.
    """
    folder = PROJECT / name
    if not folder.is_dir():
        raise InputError(
            f"The folder {name!r} is not beside the package ({PROJECT}). "
            "kdnb runs from a clone of its repository: install it there with 'pip install -e .'."
        )
    return folder
