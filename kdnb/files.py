"""Writes files atomically: a file is written completely or not at all."""

import os
import shutil
import tempfile
from pathlib import Path

from kdnb.errors import InputError

FILES = "KDNB_FILES"  # in a notebook's environment: the folder for what the execution leaves beside it


def files_folder() -> Path | None:
    """The folder for the files of an execution by ``kdnb run``, or None in a notebook that someone reads."""
    folder = os.environ.get(FILES)
    return Path(folder) if folder else None


def new_folder(path: Path) -> Path:
    """Makes an empty folder. What was there before is deleted.

    Args:
        path: The folder.

    Returns:
        The same path.

    Raises:
        InputError: If the folder cannot be made or emptied.
    """
    try:
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"Could not make the folder {path}: {error.strerror or error}.") from error
    return path


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file atomically, through a temporary file in the same folder that is renamed at the end.

    Other programs see either the old file or the complete new one, even after a power failure. If the disk
    is full, the old file stays. Missing folders are created.

    Args:
        path: The path of the file.

        content: What the file shall contain. Text is encoded as UTF-8.

    Raises:
        InputError: If the folder cannot be written to or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise InputError(
            f"Could not write {path}: {error.strerror or error}. Free some space or choose another "
            "folder with --out; what was there before is untouched."
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
