"""Decoded pictures in a file on disk, made once, for folders that memory does not hold."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from math import prod
from pathlib import Path

import numpy as np
import PIL
import torch
from filelock import FileLock, Timeout

from kdnb.datasets.decoding import decoded
from kdnb.datasets.images import MappedImages
from kdnb.datasets.memory import in_words
from kdnb.errors import InputError

FORMAT = 1  # to be raised when the same file would be decoded to other pixels


def cached(files: Sequence[Path], size: int, *, name: str, folder: Path) -> MappedImages:
    """The decoded pictures from a file that an earlier call made, or that this one makes.

    The file is found by a digest of every picture's path, size and time, so a changed folder has another
    file. It appears whole or not at all. What a killed process left of one is removed.

    Args:
        files: The pictures.

        size: Their height and width once decoded.

        name: What the name of the file begins with.

        folder: Where the file lies.

    Raises:
        InputError: If pictures cannot be read, or if the disk is full or cannot be written.
    """
    shape = (len(files), size, size, 3)
    path = folder / f"{name}-{size}px-{_digest(files, size)}.rgb"
    try:
        if not _is_whole(path, shape):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            with FileLock(_lock(path)):
                if not _is_whole(path, shape):  # another process may have made it meanwhile
                    _write(files, size, path, prod(shape))
        pixels = np.memmap(path, np.uint8, "r", shape=shape)
    except OSError as error:
        raise InputError(
            f"The decoded pictures need {in_words(prod(shape))} of disk in {folder}, and could not be kept "
            f"there ({error.strerror or error}). Free some space (older files in that folder can go), choose "
            "another folder with --data-root, or allow more memory with --memory."
        ) from error
    return MappedImages(pixels, torch.arange(len(files)))


def _digest(files: Sequence[Path], size: int) -> str:
    digest = sha256(f"{FORMAT} {PIL.__version__} {size}".encode())
    for file in files:
        about = f"\n{file.absolute()}"
        with suppress(OSError):  # a file that is gone is named with all that cannot be read
            found = file.stat()
            about += f" {found.st_size} {found.st_mtime_ns}"
        digest.update(os.fsencode(about))
    return digest.hexdigest()[:16]


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    return path.is_file() and path.stat().st_size == prod(shape)


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _write(files: Sequence[Path], size: int, path: Path, needed: int) -> None:
    """Plain writes rather than through a map: on a full disk those raise an error instead of a signal."""
    free, partial = shutil.disk_usage(path.parent).free, _partial(path)
    if free < needed:
        raise OSError(f"{in_words(free)} are free")
    try:
        with partial.open("wb") as file:
            for picture in decoded(files, size):
                file.write(np.ascontiguousarray(picture))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Removes partial files whose maker is gone: the system has freed the lock that it held."""
    for partial in folder.glob(".*.partial"):
        lock = partial.with_suffix(".lock")
        with suppress(Timeout, OSError), FileLock(lock, timeout=0):
            partial.unlink(missing_ok=True)
