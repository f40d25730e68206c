"""Losses drawn as landscapes over a plane of two features."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from kdnb.viz.style import COLOURS, MARKERS, panels, styled


@styled
def loss_planes(
    losses: Mapping[str, ArrayLike],
    x: ArrayLike,
    y: ArrayLike,
    points: Mapping[str, tuple[float, float]],
    roles: Mapping[str, str],
    *,
    x_label: str,
    y_label: str,
) -> np.ndarray:
    """Draws the contour lines of several losses over the same plane.

    There is one panel for each loss. Every panel marks the same points by name.

    Args:
        losses: Values of each loss over the plane, by title, each of shape (H, W).

        x: Horizontal coordinates of the values, shape (W,).

        y: Vertical coordinates of the values, shape (H,).

        points: Coordinates (x, y) of the points to mark, by name.

        roles: For each point the role that sets its colour and marker, a key of ``COLOURS``.

        x_label: Label of the horizontal axes.

        y_label: Label of the vertical axis.

    Returns:
        One Axes for each loss.
    """
    grid = panels(0.6 + 3.1 * len(losses), 3.3, 1, len(losses), sharey=True)
    for axes, (title, values) in zip(grid[0], losses.items(), strict=True):
        lines = axes.contour(x, y, np.asarray(values, dtype=float), levels=7, colors="#999999", linewidths=1)
        axes.clabel(lines, fontsize=9)
        for name, (across, up) in points.items():
            _mark(axes, name, across, up, roles[name])
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_aspect("equal")
    grid[0, 0].set_ylabel(y_label)
    return grid[0]


def _mark(axes: Axes, name: str, across: float, up: float, role: str) -> None:
    axes.scatter([across], [up], color=COLOURS[role], marker=MARKERS[role], s=60, zorder=3)
    axes.annotate(
        name,
        (across, up),
        xytext=(7, 7),
        textcoords="offset points",
        color=COLOURS[role],
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
    )
