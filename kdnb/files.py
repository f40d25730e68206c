"""Files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path

from kdnb.errors import InputError


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file through a temporary neighbour and one rename.

    Readers see the old file or the new one, also after a power cut; a full disk leaves the old one.

    Raises InputError if the folder cannot be written or the disk is full.
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
