"""Writes files atomically: a file is written completely or not at all."""

import os
import tempfile
from pathlib import Path

from kdnb.errors import InputError


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
