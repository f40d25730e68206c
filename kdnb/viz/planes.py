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
    """A panel a loss: its values (H, W) over the coordinates x (W,) and y (H,), as labelled contour lines.

    points: marked by name in every panel, each in the colour and marker of its role. Returns the row
    of Axes.
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
