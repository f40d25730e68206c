"""The figures of the course: each takes arrays and returns the Axes it drew on."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from kdnb.viz.style import COLOURS, MARKERS, SEQUENTIAL, panels, styled


@styled
def picture_grid(
    pictures: Sequence[ArrayLike], titles: Sequence[str], *, columns: int = 6, inch: float = 1.15
) -> np.ndarray:
    """Small pictures (H, W, 3) or maps (H, W) in rows, a title over each; returns the grid of Axes."""
    rows = -(-len(pictures) // columns)
    grid = panels(columns * inch, rows * (inch + 0.25), rows, columns)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, title in zip(grid.flat, pictures, titles, strict=False):
        axes.imshow(np.asarray(picture), cmap=SEQUENTIAL, interpolation="nearest")
        axes.set_title(title, fontsize=9)
    return grid


@styled
def soft_label_bars(
    probabilities: Mapping[str, ArrayLike], classes: Sequence[str], *, truth: int | None = None
) -> np.ndarray:
    """One panel of bars (K,) for each named distribution, on one scale; the true class is darker."""
    grid = panels(2.5 * len(probabilities), 2.9, 1, len(probabilities), sharey=True)
    for axes, (name, values) in zip(grid[0], probabilities.items(), strict=True):
        bars = axes.barh(classes, np.asarray(values), color=COLOURS["teacher"], alpha=0.55)
        if truth is not None:
            bars[truth].set_alpha(1.0)
        axes.set_title(name)
        axes.set_xlim(0, 1)
        axes.set_xlabel("probability")
    grid[0, 0].invert_yaxis()
    return grid[0]


@styled
def curves(
    lines: Mapping[str, tuple[ArrayLike, ArrayLike]],
    roles: Mapping[str, str],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
) -> Axes:
    """Lines by name, each (x, y), coloured and marked by its role (a key of ``COLOURS``)."""
    grid = panels(6.0, 3.2)
    axes = grid[0, 0]
    for name, (x, y) in lines.items():
        role, x = roles[name], np.asarray(x)
        spacing = max(1, len(x) // 8)
        axes.plot(x, y, color=COLOURS[role], marker=MARKERS[role], markevery=spacing, label=name)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend()
    return axes


@styled
def paired_runs(
    scores: Mapping[str, ArrayLike], roles: Mapping[str, str], *, y_label: str = "test accuracy (%)"
) -> Axes:
    """One column of dots a method, one line a seed: a difference is a slope.

    Arrays are ordered by seed, so that entry i of each was trained from the same start.
    """
    grid = panels(1.3 + 1.7 * len(scores), 3.2)
    axes, names = grid[0, 0], list(scores)
    values = np.array([np.asarray(scores[name]) for name in names])  # (methods, seeds)
    axes.plot(range(len(names)), values, color="#BBBBBB", linewidth=1, zorder=1)
    for column, name in enumerate(names):
        role = roles[name]
        where = np.full(values.shape[1], column)
        axes.scatter(where, values[column], color=COLOURS[role], marker=MARKERS[role], zorder=2)
        mean = values[column].mean()
        axes.hlines(mean, column - 0.18, column + 0.18, color=COLOURS[role], linewidth=3)
        axes.annotate(f"{mean:.1f}", (column + 0.2, mean), va="center", fontsize=10)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.3)
    axes.set_ylabel(y_label)
    return axes


@styled
def paired_effects(effects: Mapping[str, tuple[float, float, float]], *, x_label: str) -> Axes:
    """A line a comparison, from the first at the top: mean difference and the ends of its interval.

    What does not cross the dashed 0 is filled.
    """
    axes = panels(7.0, 0.9 + 0.36 * len(effects))[0, 0]
    for row, (mean, low, high) in enumerate(effects.values()):
        settled = low > 0 or high < 0
        colour = COLOURS["student" if settled else "baseline"]
        axes.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(mean, row, marker="o", color=colour, markerfacecolor=colour if settled else "white")
        axes.annotate(f"{mean:+.1f}", (1.01, row), xycoords=("axes fraction", "data"), va="center")
    axes.axvline(0, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(effects)), list(effects))
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.set_xlabel(x_label)
    return axes


@styled
def similarity_maps(
    matrices: Mapping[str, ArrayLike], names: Sequence[str], *, bar_label: str = "similarity"
) -> np.ndarray:
    """Heat maps (K, K) side by side on one scale, from the smallest to the largest shown value.

    Diagonals are left blank: everything resembles itself.
    """
    values = {title: np.array(matrix, dtype=float) for title, matrix in matrices.items()}
    off = ~np.eye(len(names), dtype=bool)
    low = min(matrix[off].min() for matrix in values.values())
    high = max(matrix[off].max() for matrix in values.values())
    grid = panels(3.7 * len(values) + 0.6, 3.9, 1, len(values), sharey=True)
    for column, (axes, (title, matrix)) in enumerate(zip(grid[0], values.items(), strict=True)):
        last = column == len(values) - 1
        sns.heatmap(
            pd.DataFrame(matrix, names, names),
            mask=~off,
            ax=axes,
            cmap=SEQUENTIAL,
            vmin=low,
            vmax=high,
            square=True,
            cbar=last,
            cbar_kws={"label": bar_label, "shrink": 0.75} if last else None,
        )
        axes.set_title(title)
    return grid[0]


@styled
def gradient_ledger(ledger: pd.DataFrame) -> Axes:
    """Who teaches whom: rows are terms, columns networks, cells gradient norms, coloured by decade.

    A cell with no gradient stays white and says 0.
    """
    height = 1.3 + 0.45 * len(ledger)
    grid = panels(2.2 + 1.15 * len(ledger.columns), height)
    axes, values = grid[0, 0], ledger.to_numpy(dtype=float)
    words = np.vectorize(lambda value: f"{value:.2g}" if value else "0")(values)
    shown = ledger.where(ledger > 0)
    decades = np.log10(shown.to_numpy(dtype=float, na_value=np.nan))
    sns.heatmap(
        pd.DataFrame(decades, ledger.index, ledger.columns),
        annot=words,
        fmt="",
        ax=axes,
        cmap=SEQUENTIAL,
        linewidths=1,
        cbar_kws={"label": "log10 of the norm"},
        annot_kws={"fontsize": 10},
    )
    for (row, column), value in np.ndenumerate(values):
        if not value:
            axes.text(column + 0.5, row + 0.5, "0", ha="center", va="center", fontsize=10)
    axes.set_ylabel("loss term")
    axes.set_xlabel("network")
    axes.tick_params(axis="y", rotation=0)
    axes.tick_params(axis="x", rotation=20)
    return axes
