"""Figures of a learned association between layers, as SemCKD learns it.

An association gives each of S student layers a weight for each of M teacher layers. The weights of one
student layer sum to 1.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from kdnb.viz.matrices import table_map
from kdnb.viz.style import COLOURS, SEQUENTIAL, panels, styled

SHAPES = "osD^vP*X"
LINES = ("-", "--", "-.", ":")


@styled
def association_of_picture(
    picture: ArrayLike, weights: ArrayLike, mean: ArrayLike, *, low: float, high: float
) -> np.ndarray:
    """Draws one picture, its own association, and the mean association over all pictures.

    Args:
        picture: The picture, shape (H, W, 3).

        weights: The weights for this picture, shape (S, M).

        mean: Mean weights over pictures, shape (S, M).

        low: The smallest weight that is possible. The colour scale of both tables begins here.

        high: The largest weight that is possible. The colour scale of both tables ends here.

    Returns:
        The three Axes, shape (3,).
    """
    tables = [_layers(np.asarray(values, dtype=float)) for values in (weights, mean)]
    students, teachers = tables[0].shape
    widths = [1.6, 0.9 + 0.75 * teachers, 0.9 + 0.75 * teachers]
    height = max(2.0, 1.3 + 0.5 * students)
    grid = panels(sum(widths) + 1.0, height, 1, 3, gridspec_kw={"width_ratios": widths})
    grid[0, 0].imshow(np.asarray(picture), interpolation="nearest")
    grid[0, 0].set_axis_off()
    grid[0, 0].set_title("picture")
    for axes, table, title in zip(grid[0, 1:], tables, ("this picture", "mean over pictures"), strict=True):
        last = title != "this picture"
        table_map(axes, table, low=low, high=high, bar_label="weight" if last else None)
        axes.set_title(title)
    grid[0, 2].set_yticks([])
    return grid[0]


@styled
def association_by_class(means: ArrayLike, classes: Sequence[str], *, low: float, high: float) -> np.ndarray:
    """Draws one table of mean weights for each student layer, with a row for each class.

    Args:
        means: Mean weights over the images of each class, shape (K, S, M).

        classes: The names of the K classes.

        low: The smallest weight that is possible. The colour scale of all tables begins here.

        high: The largest weight that is possible. The colour scale of all tables ends here.

    Returns:
        One Axes for each student layer, shape (S,).
    """
    means = np.asarray(means, dtype=float)
    _, students, teachers = means.shape
    grid = panels(2.0 + (0.2 + 0.42 * teachers) * students, 1.0 + 0.27 * len(classes), 1, students)
    for layer, axes in enumerate(grid[0]):
        table = pd.DataFrame(means[:, layer], classes, range(1, teachers + 1))
        bar_label = "weight" if layer == students - 1 else None
        table_map(axes, table, low=low, high=high, bar_label=bar_label, leading_zero=False)
        axes.set_title(f"student {layer + 1}")
        axes.set_xlabel("teacher layer")
        if layer:
            axes.set_yticks([])
    return grid[0]


@styled
def association_over_steps(
    steps: ArrayLike, runs: Mapping[str, ArrayLike], *, low: float, high: float
) -> np.ndarray:
    """Draws how the weights change during training, step by step.

    There is one row of panels for each run and one column for each student layer. In a panel, a line shows
    the mean over images for each teacher layer, and a band holds the middle eight tenths of them. Dotted
    lines mark the uniform weight 1 / M and both bounds of the weights. Behind step 1 the axis is logarithmic.

    Args:
        steps: How many steps of training had been done when the weights were measured, shape (E,).

        runs: For each run the weights of N images at these steps, shape (E, N, S, M).

        low: The smallest weight that is possible.

        high: The largest weight that is possible.

    Returns:
        The grid of Axes, shape (runs, S).
    """
    runs = {name: np.asarray(weights, dtype=float) for name, weights in runs.items()}
    students, teachers = next(iter(runs.values())).shape[2:]
    grid = panels(1.9 + 2.2 * students, 0.9 + 1.9 * len(runs), len(runs), students, sharex=True, sharey=True)
    tones = mpl.colormaps[SEQUENTIAL](np.linspace(0, 0.9, teachers))
    for row, (name, weights) in zip(grid, runs.items(), strict=True):
        below, above = np.quantile(weights, (0.1, 0.9), axis=1)  # (E, S, M) both
        for layer, axes in enumerate(row):
            for teacher, tone in enumerate(tones):
                own = (slice(None), layer, teacher)
                axes.fill_between(steps, below[own], above[own], color=tone, alpha=0.2, linewidth=0)
                look = {"marker": SHAPES[teacher % len(SHAPES)], "markersize": 4, "color": tone}
                axes.plot(steps, weights.mean(1)[own], label=f"teacher {teacher + 1}", **look)
            for height in (low, 1 / teachers, high):
                axes.axhline(height, color=COLOURS["baseline"], linestyle=":", linewidth=1, zorder=0)
        row[0].set_ylabel(f"{name}\nweight")
    for layer, axes in enumerate(grid[0]):
        axes.set_title(f"student {layer + 1}")
    for axes in grid[-1]:
        _count_steps(axes)
    for height, word in ((low, "lowest"), (1 / teachers, "uniform"), (high, "highest")):
        grid[0, -1].annotate(
            word, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=9
        )
    grid[0, 0].set_ylim(0, min(1.0, high + 0.06))
    lines = grid[0, 0].get_legend_handles_labels()
    grid[0, 0].figure.legend(*lines, loc="outside lower center", ncols=teachers)
    return grid


@styled
def association_by_class_over_steps(
    steps: ArrayLike, means: ArrayLike, *, low: float, high: float
) -> np.ndarray:
    """Draws how the mean weights of each class change during training.

    There is one row of panels for each student layer, one column for each teacher layer, and in a panel one
    line for each class. All lines look alike: what can be seen is whether classes differ, and not which.

    Args:
        steps: How many steps of training had been done when the weights were measured, shape (E,).

        means: Mean weights of the images of each of K classes at these steps, shape (E, K, S, M).

        low: The smallest weight that is possible.

        high: The largest weight that is possible.

    Returns:
        The grid of Axes, shape (S, M).
    """
    means = np.asarray(means, dtype=float)
    students, teachers = means.shape[2:]
    grid = panels(1.2 + 2.0 * teachers, 0.8 + 1.3 * students, students, teachers, sharex=True, sharey=True)
    for (student, teacher), axes in np.ndenumerate(grid):
        axes.plot(steps, means[:, :, student, teacher], color=COLOURS["student"], linewidth=1, alpha=0.7)
        for height in (low, high):
            axes.axhline(height, color=COLOURS["baseline"], linestyle=":", linewidth=1, zorder=0)
        if student == 0:
            axes.set_title(f"teacher {teacher + 1}")
        if teacher == 0:
            axes.set_ylabel(f"student {student + 1}\nweight")
        if student == students - 1:
            _count_steps(axes)
    grid[0, 0].set_ylim(0, min(1.0, high + 0.06))
    return grid


@styled
def entropy_over_steps(steps: ArrayLike, runs: Mapping[str, ArrayLike], *, lowest: float) -> np.ndarray:
    """Draws how evenly the weights are spread during training.

    There is one panel for each run, and in it one line for each student layer. Dotted lines mark the entropy
    of uniform weights and the smallest that the bounds of the weights allow.

    Args:
        steps: How many steps of training had been done when the weights were measured, shape (E,).

        runs: For each run the entropy of the weights at these steps, divided by log M, as a mean over images,
            shape (E, S).

        lowest: The smallest value that the bounds of the weights allow.

    Returns:
        One Axes for each run.
    """
    grid = panels(1.6 + 3.0 * len(runs), 2.9, 1, len(runs), sharey=True)
    for axes, (name, entropies) in zip(grid[0], runs.items(), strict=True):
        for layer, values in enumerate(np.asarray(entropies, dtype=float).T):
            look = {"color": COLOURS["student"], "linestyle": LINES[layer % len(LINES)]}
            axes.plot(steps, values, marker=SHAPES[layer % len(SHAPES)], markersize=4, **look)
            axes.lines[-1].set_label(f"student {layer + 1}")
        for height in (1.0, lowest):
            axes.axhline(height, color=COLOURS["baseline"], linestyle=":", linewidth=1, zorder=0)
        axes.set_title(name)
        _count_steps(axes)
    for height, words in ((1.0, "uniform"), (lowest, "lowest")):
        grid[0, -1].annotate(
            words, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=9
        )
    grid[0, 0].set_ylabel("entropy / log M")
    grid[0, 0].set_ylim(lowest - 0.05, 1.03)
    lines = grid[0, 0].get_legend_handles_labels()
    grid[0, 0].figure.legend(*lines, loc="outside lower center", ncols=len(lines[1]))
    return grid[0]


def _count_steps(axes: Axes) -> None:
    """Makes the horizontal axis count steps from 0, logarithmic from 1 on."""
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("training step")


def _layers(values: np.ndarray) -> pd.DataFrame:
    students, teachers = values.shape
    rows = [f"student {layer + 1}" for layer in range(students)]
    return pd.DataFrame(values, rows, [f"teacher {layer + 1}" for layer in range(teachers)])
