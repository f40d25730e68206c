"""Figures of matrices that compare layers with layers, or classes with classes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from kdnb.viz.style import SEQUENTIAL, SIGNED, panels, styled

UNDEFINED = "#DDDDDD"


@styled
def layer_heatmaps(
    matrices: Mapping[str, pd.DataFrame], *, low: float, high: float, label: str
) -> np.ndarray:
    """Draws annotated tables of layers side by side on one fixed colour scale.

    Where ``low`` is negative, the colours are signed and symmetric about 0. Cells without a value are grey.

    Args:
        matrices: Tables by title. The names of a table's index and columns become axis labels.

        low: Lower end of the colour scale.

        high: Upper end of the colour scale.

        label: Label of the colour bar.

    Returns:
        One Axes for each table.
    """
    tall = max(len(matrix) for matrix in matrices.values())
    wide = sum(len(matrix.columns) for matrix in matrices.values())
    grid = panels(1.2 + 1.0 * len(matrices) + 0.62 * wide, 1.3 + 0.5 * tall, 1, len(matrices))
    for axes, (title, matrix) in zip(grid[0], matrices.items(), strict=True):
        last = axes is grid[0, -1]
        table_map(axes, matrix, low=low, high=high, bar_label=label if last else None)
        axes.set_title(title)
    return grid[0]


@styled
def class_matrices(
    matrices: Mapping[str, ArrayLike],
    names: Sequence[str],
    *,
    label: str,
    families: Sequence[int] | None = None,
) -> np.ndarray:
    """Draws signed similarities of classes side by side, on one scale that is symmetric about 0.

    Diagonals are left blank, because every class is similar to itself.

    Args:
        matrices: Similarity matrices by title, each of shape (K, K).

        names: The names of the K classes.

        label: Label of the colour bar.

        families: The number of each class's family, shape (K,). Classes of one family are then moved next to
            each other and framed. None keeps the order of the classes.

    Returns:
        One Axes for each matrix.
    """
    groups = np.arange(len(names)) if families is None else np.asarray(families)
    order = np.argsort(groups, kind="stable")
    named = [names[index] for index in order]
    values = {
        title: np.asarray(matrix, dtype=float)[np.ix_(order, order)] for title, matrix in matrices.items()
    }
    own = np.eye(len(names), dtype=bool)
    limit = max(np.abs(matrix[~own]).max() for matrix in values.values())
    grid = panels(3.7 * len(values) + 0.6, 3.9, 1, len(values), sharey=True)
    for axes, (title, matrix) in zip(grid[0], values.items(), strict=True):
        last = axes is grid[0, -1]
        sns.heatmap(
            pd.DataFrame(matrix, named, named),
            mask=own,
            ax=axes,
            cmap=SIGNED,
            vmin=-limit,
            vmax=limit,
            square=True,
            cbar=last,
            cbar_kws={"label": label, "shrink": 0.75} if last else None,
        )
        axes.set_title(title)
        if families is not None:
            _frame(axes, groups[order])
    return grid[0]


def table_map(
    axes: Axes,
    matrix: pd.DataFrame,
    *,
    low: float,
    high: float,
    bar_label: str | None,
    leading_zero: bool = True,
) -> None:
    """Draws an annotated table on ``axes``.

    Where ``low`` is negative, the colours are signed and symmetric about 0. Cells without a value are grey.

    Args:
        axes: The Axes to draw on.

        matrix: The table.

        low: Lower end of the colour scale.

        high: Upper end of the colour scale.

        bar_label: Label of the colour bar. None leaves the colour bar out.

        leading_zero: Whether a zero stands before the decimal point. Narrow cells have no room for it.
    """
    if low < 0:
        high = max(-low, high)
        low = -high
    words = matrix.map(lambda value: f"{round(value, 2) + 0:.2f}")  # adding 0 turns -0.00 into 0.00
    words = words if leading_zero else words.map(lambda word: word.removeprefix("0"))
    sns.heatmap(
        matrix,
        ax=axes,
        annot=words,
        fmt="",
        cmap=SIGNED if low < 0 else SEQUENTIAL,
        vmin=low,
        vmax=high,
        linewidths=1,
        cbar=bar_label is not None,
        cbar_kws=None if bar_label is None else {"label": bar_label},
        annot_kws={"fontsize": 9},
    )
    axes.set_facecolor(UNDEFINED)
    axes.tick_params(axis="y", rotation=0)


def _frame(axes: Axes, families: np.ndarray) -> None:
    """Draws a frame around each family of classes. ``families`` has shape (K,) and is sorted."""
    starts = np.flatnonzero(np.diff(families, prepend=families[0] - 1))
    for start, end in zip(starts, [*starts[1:], len(families)], strict=True):
        side = end - start
        axes.add_patch(Rectangle((start, start), side, side, fill=False, linewidth=1.4, clip_on=False))
