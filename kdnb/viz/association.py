"""Figures of a learned association between layers, as SemCKD learns it.

An association gives each of S student layers a weight for each of M teacher layers. The weights of one
student layer sum to 1.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from kdnb.viz.matrices import table_map
from kdnb.viz.style import COLOURS, SEQUENTIAL, panels, styled

SHAPES = "osD^vP*X"


@styled
def association_heatmaps(mean: ArrayLike, std: ArrayLike, *, low: float, high: float) -> np.ndarray:
    """Draws the mean association and, beside it, its standard deviation over images.

    Both colour scales follow from the bounds of the weights, so two figures with the same bounds can be
    compared. A standard deviation is at most half of the distance between the bounds.

    Args:
        mean: Mean weights over images, shape (S, M).

        std: Standard deviation of the weights over images, shape (S, M).

        low: The smallest weight that is possible.

        high: The largest weight that is possible.

    Returns:
        Both Axes, shape (2,).
    """
    tables = [_layers(np.asarray(values, dtype=float)) for values in (mean, std)]
    students, teachers = tables[0].shape
    grid = panels(3.2 + 1.5 * teachers, 1.3 + 0.5 * students, 1, 2)
    table_map(grid[0, 0], tables[0], low=low, high=high, bar_label="weight")
    table_map(grid[0, 1], tables[1], low=0, high=(high - low) / 2, bar_label="weight")
    grid[0, 0].set_title("mean over images")
    grid[0, 1].set_title("standard deviation")
    grid[0, 1].set_yticks([])
    return grid[0]


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
def association_over_epochs(epochs: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """Draws how the mean weights change during training.

    There is one panel for each student layer, and in it one line for each teacher layer. A dotted line marks
    the uniform weight 1 / M.

    Args:
        epochs: The epochs at which the weights were measured, shape (E,).

        weights: Mean weights at these epochs, shape (E, S, M).

    Returns:
        One Axes for each student layer, shape (S,).
    """
    weights = np.asarray(weights, dtype=float)
    _, students, teachers = weights.shape
    grid = panels(1.6 + 2.3 * students, 2.8, 1, students, sharey=True)
    tones = mpl.colormaps[SEQUENTIAL](np.linspace(0, 0.9, teachers))
    for layer, axes in enumerate(grid[0]):
        for teacher in range(teachers):
            axes.plot(
                epochs,
                weights[:, layer, teacher],
                color=tones[teacher],
                marker=SHAPES[teacher % len(SHAPES)],
                markersize=4,
                label=f"teacher {teacher + 1}",
            )
        axes.axhline(1 / teachers, color=COLOURS["baseline"], linestyle=":", label="uniform")
        axes.set_title(f"student {layer + 1}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[0, 0].set_ylabel("mean weight")
    grid[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return grid[0]


@styled
def row_entropy(entropies: ArrayLike, *, lowest: float | None = None) -> Axes:
    """Draws how undecided the weights of each image are, as one violin for each student layer.

    Args:
        entropies: Entropy of the weights of each image and student layer, divided by log M, shape (N, S).
            A value of 1 means uniform weights.

        lowest: The smallest value that the bounds of the weights allow. It is marked in the figure. None
            leaves the mark out.

    Returns:
        The Axes.
    """
    entropies = np.asarray(entropies, dtype=float)
    students = entropies.shape[1]
    names = [f"student {layer + 1}" for layer in range(students)]
    axes = panels(5.2, 1.0 + 0.5 * students)[0, 0]
    sns.violinplot(
        pd.DataFrame(entropies, columns=names),
        orient="h",
        color=COLOURS["student"],
        inner="quart",
        cut=0,
        density_norm="width",
        linewidth=1,
        saturation=1,
        alpha=0.7,
        ax=axes,
    )
    for place, word in ((1.0, "uniform"), (lowest, "most decided")):
        if place is not None:
            axes.axvline(place, color=COLOURS["baseline"], linestyle=":")
            axes.annotate(word, (place, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
    axes.set_xlim(0, 1.03)
    axes.set_xlabel("entropy / log M")
    return axes


def _layers(values: np.ndarray) -> pd.DataFrame:
    students, teachers = values.shape
    rows = [f"student {layer + 1}" for layer in range(students)]
    return pd.DataFrame(values, rows, [f"teacher {layer + 1}" for layer in range(teachers)])
