"""Decodes picture files: turned upright, in RGB, and several at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kdnb.errors import InputError

LISTED = 10  # how many unreadable pictures one error names
AT_ONCE = 16  # pictures that a thread decodes before it hands them over
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # the tag of EXIF, and its values that swap width and height

Box = tuple[float, float, float, float]  # left, upper, right and lower edge, in pixels of the upright picture


def decoded(files: Sequence[Path], size: int) -> Iterator[np.ndarray]:
    """Decodes pictures in threads, because Pillow frees Python's lock while it decodes and resizes.

    Only a few pictures wait to be taken, however many there are.

    Args:
        files: The files.

        size: Height and width to which every picture is brought.

    Yields:
        The pictures in the order of the files, uint8 (size, size, 3).

    Raises:
        InputError: After the last picture, if some cannot be read. Up to ten are named.
    """
    bad = []
    for picture in _in_threads(files, size):
        if isinstance(picture, str):
            bad.append(picture)
        else:
            yield picture
    if bad:
        raise unreadable(bad, len(files))


def unreadable(bad: Sequence[str], count: int) -> InputError:
    """The error that names pictures which cannot be read.

    Args:
        bad: A line for each of them.

        count: How many pictures there are, the others included.
    """
    more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    listed = "\n".join(f"  {line}" for line in bad[:LISTED])
    return InputError(
        f"{len(bad)} of {count} pictures cannot be read; remove or replace them:\n{listed}{more}"
    )


def square(file: Path, size: int) -> np.ndarray | str:
    """The middle of a picture, its shorter side filling the square.

    Args:
        file: The file.

        size: Height and width of the result.

    Returns:
        Pixels, uint8 (size, size, 3), or a line that says why the file cannot be read.
    """
    try:
        with Image.open(file) as opened:
            opened.draft(None, (4 * size, 4 * size))  # a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size
            image = _upright_rgb(opened)
    except Exception as error:  # decoders raise almost any error for damaged files
        return f"{file}: {type(error).__name__}: {error}"
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def cut(file: Path, size: int, box_in: Callable[[int, int], Box]) -> np.ndarray | str:
    """A part of a picture, resized to a square.

    Args:
        file: The file.

        size: Height and width of the result.

        box_in: Chooses the part from the width and the height of the upright picture.

    Returns:
        Pixels, uint8 (size, size, 3), or a line that says why the file cannot be read.
    """
    try:
        with Image.open(file) as opened:
            width, height = opened.size
            turned = opened.getexif().get(ORIENTATION) in TURNED
            box = box_in(height, width) if turned else box_in(width, height)
            spare = min(box[2] - box[0], box[3] - box[1]) / (2 * size)
            if (
                spare > 1
            ):  # a large JPEG is decoded at a fraction that leaves the part twice the pixels it needs
                opened.draft(None, (int(width / spare), int(height / spare)))
            scale = opened.size[0] / width
            image = _upright_rgb(opened)
    except Exception as error:  # decoders raise almost any error for damaged files
        return f"{file}: {type(error).__name__}: {error}"
    right, lower = image.size
    box = (box[0] * scale, box[1] * scale, min(box[2] * scale, right), min(box[3] * scale, lower))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def cores() -> int:
    """How many cores each of the processes that torchrun started here may count as its own."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _upright_rgb(opened: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(opened, in_place=True)
    image = opened
    if image.mode.startswith("I"):  # with 16 bits for each pixel, keep the high byte
        high = (np.asarray(image) // 256).clip(0, 255)
        image = Image.fromarray(high.astype(np.uint8))
    return image.convert("RGB")


def _in_threads(files: Sequence[Path], size: int) -> Iterator[np.ndarray | str]:
    threads = cores()
    groups = (files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE))
    with ThreadPoolExecutor(threads) as pool:

        def submit(group: Sequence[Path]) -> Future:
            return pool.submit(lambda: [square(file, size) for file in group])

        waiting = deque(map(submit, islice(groups, 2 * threads)))
        try:
            while waiting:
                pictures = waiting.popleft().result()
                waiting.extend(map(submit, islice(groups, 1)))
                yield from pictures
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
