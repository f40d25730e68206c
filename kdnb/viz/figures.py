"""Figures that every notebook needs: pictures, soft labels, curves, paired runs, and gradients."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import ArrayLike

from kdnb.viz.style import COLOURS, MARKERS, SEQUENTIAL, panels, styled

PICTURE_INCHES = 1.15  # side of one small picture


@styled
def picture_grid(pictures: Sequence[ArrayLike], titles: Sequence[str], *, columns: int = 6) -> np.ndarray:
    """Draws small pictures or maps in rows, with a title over each.

    Args:
        pictures: Pictures of shape (H, W, 3), or maps of shape (H, W).

        titles: One title for each picture.

        columns: How many pictures stand in one row.

    Returns:
        The grid of Axes, shape (rows, columns).
    """
    rows = -(-len(pictures) // columns)
    grid = panels(columns * PICTURE_INCHES, rows * (PICTURE_INCHES + 0.25), rows, columns)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, title in zip(grid.flat, pictures, titles, strict=False):
        axes.imshow(np.asarray(picture), cmap=SEQUENTIAL, interpolation="nearest")
        axes.set_title(title, fontsize=9)
    return grid


@styled
def soft_label_bars(
    probabilities: Mapping[str, ArrayLike],
    classes: Sequence[str],
    *,
    truth: int | None = None,
    roles: Mapping[str, str] | None = None,
    picture: ArrayLike | None = None,
    lowest: float | None = None,
) -> np.ndarray:
    """Draws each distribution over the classes as a panel of bars, all on one scale.

    Args:
        probabilities: Distributions by name, each of shape (K,).

        classes: The names of the K classes.

        truth: The number of the true class. Its bars are drawn darker, and its name is bold. None draws all
            bars alike.

        roles: For each distribution the role that sets its colour, a key of ``COLOURS``. None gives all the
            teacher's colour.

        picture: The picture that the distributions are about, shape (H, W, 3). It is drawn on the left.

        lowest: The left end of a logarithmic scale that ends at 1. Smaller probabilities have no bar. None
            gives a linear scale from 0 to 1.

    Returns:
        One Axes for each distribution.
    """
    first = 0 if picture is None else 1
    columns = first + len(probabilities)
    widths = [1.6] * first + [2.5] * len(probabilities)
    grid = panels(sum(widths), 2.9, 1, columns, width_ratios=widths)[0]
    grid[0].figure.get_layout_engine().set(w_pad=0.1)  # the last tick of a panel and the first of the next
    if picture is not None:
        grid[0].imshow(np.asarray(picture), interpolation="nearest")
        grid[0].set_title("the picture")
        grid[0].set_axis_off()
    for axes, (name, values) in zip(grid[first:], probabilities.items(), strict=True):
        colour = COLOURS["teacher" if roles is None else roles[name]]
        bars = axes.barh(classes, np.asarray(values), color=colour, alpha=0.55)
        if truth is not None:
            bars[truth].set_alpha(1.0)
        axes.set_title(name)
        if lowest is None:
            axes.set_xlim(0, 1)
        else:
            axes.set_xscale("log")
            axes.set_xlim(lowest, 1)
        axes.set_xlabel("probability")
        axes.invert_yaxis()
        axes.tick_params(labelleft=axes is grid[first])
    if truth is not None:
        grid[first].get_yticklabels()[truth].set_fontweight("bold")
    return grid[first:]


@styled
def curves(
    lines: Mapping[str, tuple[ArrayLike, ArrayLike]],
    roles: Mapping[str, str],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
) -> Axes:
    """Draws lines whose colours and markers follow from the roles of what they show.

    Args:
        lines: Pairs (x, y) by name, both of shape (N,).

        roles: For each line the role that sets its colour and marker, a key of ``COLOURS``.

        x_label: Label of the horizontal axis.

        y_label: Label of the vertical axis.

        log: Whether the vertical axis is logarithmic.

    Returns:
        The Axes.
    """
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
    """Draws the scores of several methods that were trained with the same seeds.

    Each method is a column of dots, and each seed is a line through the columns. The difference between two
    methods at one seed is therefore the slope of a line. A short bar marks the mean of each method.

    Args:
        scores: Scores by method, each of shape (seeds,). All are ordered by seed, so that entry i of each
            method was trained from the same start.

        roles: For each method the role that sets its colour and marker, a key of ``COLOURS``.

        y_label: Label of the vertical axis.

    Returns:
        The Axes.
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
    """Draws mean differences with their confidence intervals, one row for each comparison.

    The dot of an interval that does not contain 0 is filled.

    Args:
        effects: For each comparison the mean difference and the lower and the upper end of its interval. The
            first comparison stands at the top.

        x_label: Label of the horizontal axis.

    Returns:
        The Axes.
    """
    axes = panels(7.0, 0.9 + 0.36 * len(effects))[0, 0]
    _intervals(axes, effects)
    axes.set_xlabel(x_label)
    return axes


@styled
def effect_panels(
    effects: Mapping[str, Mapping[str, tuple[float, float, float]]], *, x_label: str
) -> np.ndarray:
    """Draws the same comparisons for several measures, one panel for each, on one scale.

    Args:
        effects: By title of the panel what ``paired_effects`` takes. Every panel has the same comparisons in
            the same order.

        x_label: Label of the horizontal axes.

    Returns:
        One Axes for each panel.
    """
    rows = len(next(iter(effects.values())))
    grid = panels(1.2 + 2.3 * len(effects), 1.2 + 0.36 * rows, 1, len(effects), sharex=True, sharey=True)
    for axes, (title, own) in zip(grid[0], effects.items(), strict=True):
        _intervals(axes, own)
        axes.set_title(title)
    grid[0, 0].figure.supxlabel(x_label, fontsize=10)
    return grid[0]


def _intervals(axes: Axes, effects: Mapping[str, tuple[float, float, float]]) -> None:
    """Draws a row for each mean difference, with its interval and its value."""
    for row, (mean, low, high) in enumerate(effects.values()):
        settled = low > 0 or high < 0
        colour = COLOURS["student" if settled else "baseline"]
        axes.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(mean, row, marker="o", color=colour, markerfacecolor=colour if settled else "white")
        axes.annotate(f"{mean:+.1f}", (1.01, row), xycoords=("axes fraction", "data"), va="center")
    axes.axvline(0, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(effects)), list(effects))
    axes.set_ylim(len(effects) - 0.5, -0.5)


@styled
def similarity_maps(
    matrices: Mapping[str, ArrayLike], names: Sequence[str], *, bar_label: str = "similarity"
) -> np.ndarray:
    """Draws similarity matrices of classes side by side on one colour scale.

    The scale runs from the smallest to the largest value that is shown. Diagonals are left blank, because
    every class is similar to itself.

    Args:
        matrices: Similarity matrices by title, each of shape (K, K).

        names: The names of the K classes.

        bar_label: Label of the colour bar.

    Returns:
        One Axes for each matrix.
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
    """Draws which loss term teaches which network.

    A cell is coloured by the logarithm of its gradient norm, on a scale of whole decades, so that nearly
    equal norms have nearly equal colours. The colour bar shows the norm itself, as the cells do. A cell
    without a gradient stays white and shows 0.

    Args:
        ledger: Gradient norms with one row for each loss term and one column for each network.

    Returns:
        The Axes.
    """
    height = 1.3 + 0.45 * len(ledger)
    grid = panels(2.2 + 1.15 * len(ledger.columns), height)
    axes, values = grid[0, 0], ledger.to_numpy(dtype=float)
    words = np.vectorize(lambda value: f"{value:.2g}" if value else "0")(values)
    norms = values[values > 0] if (values > 0).any() else np.ones(1)
    low, high = np.floor(np.log10(norms.min())), np.ceil(np.log10(norms.max()))
    sns.heatmap(
        ledger.astype(float),
        mask=values <= 0,
        norm=LogNorm(10**low, 10 ** max(high, low + 1)),
        annot=words,
        fmt="",
        ax=axes,
        cmap=SEQUENTIAL,
        linewidths=1,
        cbar_kws={"label": "gradient norm"},
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
