"""Leaves a figure as files: the picture, what it says in words, and the numbers that were drawn."""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from kdnb.files import write_whole


def drawn_numbers(figure: Figure) -> dict[str, np.ndarray]:
    """Collects the numbers that a figure shows.

    Args:
        figure: The figure.

    Returns:
        Arrays by name, such as ``"panel 0/line 1"``. A line or a cloud of points has shape (points, 2), with
        x and y. Segments, such as intervals, have shape (segments, 4): x and y of both ends. Bars have shape
        (bars, 4): x, y, width and height. A picture or a table has its own shape.
        Panels are counted as they were made, so the colour bars come after the panels.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> figure, axes = plt.subplots()
        >>> _ = axes.plot([0, 1], [3.0, 2.5])
        >>> drawn_numbers(figure)["panel 0/line 0"].tolist()
        [[0.0, 3.0], [1.0, 2.5]]
        >>> plt.close(figure)
    """
    found = {}
    for number, axes in enumerate(figure.axes):
        collections = axes.collections
        groups = {
            "line": [line.get_xydata() for line in axes.lines if len(line.get_xydata())],
            "points": [one.get_offsets() for one in collections if isinstance(one, PathCollection)],
            "segments": [_segments(one) for one in collections if isinstance(one, LineCollection)],
            "cells": [one.get_array() for one in collections if isinstance(one, QuadMesh)],
            "picture": [image.get_array() for image in axes.images],
            "bars": [_bars(bars) for bars in axes.containers if isinstance(bars, BarContainer)],
        }
        for kind, arrays in groups.items():
            for place, array in enumerate(arrays):
                found[f"panel {number}/{kind} {place}"] = _plain(array)
    return found


def leave(figure: Figure, picture: bytes, caption: str, folder: Path) -> Path:
    """Writes a figure as three files whose names end in the next free number.

    Args:
        figure: The figure, for the numbers that it shows. They go into ``figure-01.npz``, as
            ``drawn_numbers`` collects them.

        picture: The content of ``figure-01.png``.

        caption: The content of ``figure-01.txt``. It is the picture's alternative text.

        folder: Where to write.

    Returns:
        The path of the picture.

    Raises:
        InputError: If a file cannot be written.
    """
    path = folder / f"figure-{len(list(folder.glob('figure-*.png'))) + 1:02d}.png"
    numbers = BytesIO()
    np.savez_compressed(numbers, **drawn_numbers(figure))
    write_whole(path.with_suffix(".npz"), numbers.getvalue())
    write_whole(path.with_suffix(".txt"), caption + "\n")
    write_whole(path, picture)
    return path


def _bars(bars: BarContainer) -> list[tuple[float, float, float, float]]:
    return [(bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()) for bar in bars]


def _segments(lines: LineCollection) -> np.ndarray:
    return np.array([[*ends[0], *ends[-1]] for ends in lines.get_segments() if len(ends)]).reshape(-1, 4)


def _plain(array: np.ndarray) -> np.ndarray:
    """As floats or bytes, with NaN where nothing is shown."""
    array = np.ma.asarray(array)
    if np.ma.is_masked(array):
        array = array.astype(float).filled(np.nan)
    array = np.asarray(array)
    return array if array.dtype == np.uint8 else array.astype(float)
