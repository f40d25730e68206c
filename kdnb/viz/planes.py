"""Losses drawn as landscapes over a plane of two features."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from numpy.typing import ArrayLike

from kdnb.viz.style import COLOURS, MARKERS, SEQUENTIAL, panels, styled


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
    valleys: Mapping[str, ArrayLike] | None = None,
    pulls: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> np.ndarray:
    """Draws several losses over the same plane.

    There is one panel for each loss. Every panel marks the same points by name. Colours are the same in all
    panels; from one to the next the loss doubles.

    Args:
        losses: Values of each loss over the plane, by title, each of shape (H, W).

        x: Horizontal coordinates of the values, shape (W,).

        y: Vertical coordinates of the values, shape (H,).

        points: Coordinates (x, y) of the points to mark, by name.

        roles: For each point the role that sets its colour and marker, a key of ``COLOURS``.

        x_label: Label of the horizontal axes.

        y_label: Label of the vertical axis.

        valleys: For each loss that has one, a line of places (x, y) where it is 0, shape (N, 2). It is drawn
            dashed.

        pulls: For some losses and some points the direction (x, y) in which the loss pulls the point. It is
            drawn as an arrow of fixed length, and a direction of length 0 is not drawn.

    Returns:
        One Axes for each loss.
    """
    grid = panels(1.2 + 3.1 * len(losses), 3.5, 1, len(losses), sharey=True)[0]
    surfaces = {title: np.asarray(values, dtype=float) for title, values in losses.items()}
    highest = max(values.max() for values in surfaces.values())
    levels = [0, *highest / 2.0 ** np.arange(6, -1, -1)]
    look = {"levels": levels, "cmap": SEQUENTIAL, "norm": BoundaryNorm(levels, 256)}
    for axes, (title, values) in zip(grid, surfaces.items(), strict=True):
        filled = axes.contourf(x, y, values, **look)
        for name, (across, up) in points.items():
            _pull(axes, (across, up), (pulls or {}).get(title, {}).get(name, (0, 0)), COLOURS[roles[name]])
            _mark(axes, name, across, up, roles[name])
        if title in (valleys or {}):
            axes.plot(*np.asarray(valleys[title], dtype=float).T, color="white", linestyle="--", zorder=2)
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_aspect("equal")
    grid[0].set_ylabel(y_label)
    grid[0].figure.colorbar(filled, ax=grid, label="loss", format="{x:.3g}", shrink=0.8)
    return grid


def _pull(
    axes: Axes, place: tuple[float, float], direction: tuple[float, float], colour: str, length: float = 0.6
) -> None:
    """Draws an arrow from a place, unless the direction has length 0."""
    size = np.hypot(*direction)
    if size > 0:
        tip = np.add(place, length / size * np.asarray(direction))
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "mutation_scale": 16}
        axes.annotate("", tip, place, arrowprops=arrow, zorder=3)


def _mark(axes: Axes, name: str, across: float, up: float, role: str) -> None:
    axes.scatter([across], [up], color=COLOURS[role], marker=MARKERS[role], s=60, zorder=4, edgecolor="white")
    axes.annotate(
        name,
        (across, up),
        xytext=(7, 7),
        textcoords="offset points",
        color=COLOURS[role],
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 1},
    )
