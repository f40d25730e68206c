"""Figures of attention maps: where networks look, and how well that fits the object."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import ArrayLike

from kdnb.viz.style import COLOURS, SEQUENTIAL, SIGNED, panels, styled

OUTLINE = "#D55E00"  # Okabe-Ito vermilion, visible on pictures, on cividis and on white
INCH = 1.15  # side of one picture in the figure


@styled
def map_rows(
    images: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    masks: ArrayLike | None = None,
    titles: Sequence[str] | None = None,
    scale: str = "",
) -> np.ndarray:
    """Draws one row for each picture: the picture, then its map from each network.

    Each row has its own colour scale, from the lowest to the highest value of its maps. Maps of different
    networks must be brought to one scale beforehand, which ``scale`` should name. Maps are drawn at their own
    resolution.

    Args:
        images: Pictures, shape (N, H, W, 3).

        maps: Maps by name, each of shape (N, h, w). Their resolutions may differ.

        masks: Object masks, shape (N, H, W). They are outlined in every panel.

        titles: One name for each row.

        scale: Label of the colour bar, such as ``"each map by its own range"``.

    Returns:
        The grid of Axes, shape (N, 1 + len(maps)).
    """
    images = np.asarray(images)
    named = {name: np.asarray(values, dtype=float) for name, values in maps.items()}
    grid = panels((1 + len(named)) * INCH + 0.9, len(images) * INCH + 0.3, len(images), 1 + len(named))
    for row, axes in enumerate(grid):
        _picture(axes[0], images[row])
        for one, values in zip(axes[1:], named.values(), strict=True):
            _map(one, values[row], images[row], _range_of(named, row))
        _outline(axes, masks, row)
    _name(grid, ["picture", *named], titles)
    _relative_bar(grid, scale)
    return grid


@styled
def map_overlays(
    images: ArrayLike,
    maps: Mapping[str, ArrayLike],
    *,
    smooth: Mapping[str, ArrayLike] | None = None,
    masks: ArrayLike | None = None,
    titles: Sequence[str] | None = None,
    scale: str = "",
) -> np.ndarray:
    """Draws one row for each picture: the picture, then for each network its map and an overlay.

    The map alone is drawn exactly. In the overlay the picture is grey and the map is smooth, so that its
    place on the picture can be seen. Colours are those of ``map_rows``.

    Args:
        images: Pictures, shape (N, H, W, 3).

        maps: Maps by name, each of shape (N, h, w). Their resolutions may differ.

        smooth: The maps of the overlays by the same names, each of shape (N, h, w). Without them, the maps
            themselves are smoothed.

        masks: Object masks, shape (N, H, W). They are outlined in every panel.

        titles: One name for each row.

        scale: Label of the colour bar, such as ``"each map by its own range"``.

    Returns:
        The grid of Axes, shape (N, 1 + 2 len(maps)). Two panels follow the picture for every name.
    """
    images = np.asarray(images)
    named = {name: np.asarray(values, dtype=float) for name, values in maps.items()}
    over = named if smooth is None else {name: np.asarray(smooth[name], dtype=float) for name in named}
    columns = 1 + 2 * len(named)
    grid = panels(columns * INCH + 0.9, len(images) * INCH + 0.3, len(images), columns)
    for row, axes in enumerate(grid):
        limits = _range_of(named, row)
        _picture(axes[0], images[row])
        for exact, overlay, name in zip(axes[1::2], axes[2::2], named, strict=True):
            _map(exact, named[name][row], images[row], limits)
            _grey(overlay, images[row])
            _map(overlay, over[name][row], images[row], limits, alpha=0.55, interpolation="bilinear")
        _outline(axes, masks, row)
    names = [title for name in named for title in (name, "overlay")]
    _name(grid, ["picture", *names], titles)
    _relative_bar(grid, scale)
    return grid


@styled
def shift_maps(
    maps: Mapping[str, ArrayLike],
    *,
    label: str,
    images: ArrayLike | None = None,
    titles: Sequence[str] | None = None,
) -> np.ndarray:
    """Draws maps of signed differences, with one row for each sample and one column for each name.

    All maps share one colour scale, which is symmetric about 0.

    Args:
        maps: Differences by name, each of shape (N, h, w).

        label: Label of the colour bar.

        images: Pictures for a first column, shape (N, H, W, 3).

        titles: One name for each row.

    Returns:
        The grid of Axes with one row for each sample.
    """
    named = {name: np.asarray(values, dtype=float) for name, values in maps.items()}
    limit = max(np.abs(values).max() for values in named.values())
    rows, first = len(next(iter(named.values()))), 0 if images is None else 1
    grid = panels((first + len(named)) * INCH + 1.0, rows * INCH + 0.3, rows, first + len(named))
    for row, axes in enumerate(grid):
        if images is not None:
            _picture(axes[0], np.asarray(images)[row])
        for one, values in zip(axes[first:], named.values(), strict=True):
            drawn = one.imshow(values[row], cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
    _name(grid, ["picture"] * first + list(named), titles)
    grid[0, 0].figure.colorbar(drawn, ax=grid, label=label, fraction=0.05, pad=0.02, aspect=15 * rows)
    return grid


@styled
def diversity_steps(
    attention: ArrayLike,
    task: ArrayLike,
    target: ArrayLike,
    *,
    own: ArrayLike | None = None,
    images: ArrayLike | None = None,
    titles: Sequence[str] | None = None,
    words: bool = False,
) -> np.ndarray:
    """Draws the steps by which FFSD makes the diversity target from a neighbour's attention map.

    Each row is a sample. Its panels show the neighbour's attention, the task area, the target, and the
    difference between target and attention. The student's own attention follows where it is given.

    Attention, target and own attention must be brought to one scale beforehand, and the caption should name
    that scale. The maps of a row share their colours, which run from 0 to the highest value in the row. The
    differences of all rows share one scale that is symmetric about 0.

    Args:
        attention: The neighbour's attention maps, shape (N, h, w).

        task: The task area, bool, shape (N, h, w).

        target: The target that is made from them, shape (N, h, w).

        own: The student's own attention maps, shape (N, h, w).

        images: Pictures for a first column, shape (N, H, W, 3).

        titles: One name for each row.

        words: Whether to write the values into the cells. This is readable for small maps only.

    Returns:
        The grid of Axes with one row for each sample.
    """
    attention, target = (np.asarray(values, dtype=float) for values in (attention, target))
    task, change = np.asarray(task, dtype=bool), target - attention
    looks = {"neighbour": attention, "task area": task, "asked for": target, "difference": change}
    looks |= {} if own is None else {"student": np.asarray(own, dtype=float)}
    limit, inch, first = np.abs(change).max(), 1.6 if words else INCH, 0 if images is None else 1
    grid = panels((first + len(looks)) * inch + 0.9, len(task) * inch + 0.4, len(task), first + len(looks))
    for row, axes in enumerate(grid):
        if images is not None:
            _picture(axes[0], np.asarray(images)[row])
        top = max(looks[name][row].max() for name in ("neighbour", "asked for", "student") if name in looks)
        colours = {"task area": ("gray", -1, 1), "difference": (SIGNED, -limit, limit)}
        for one, (name, values) in zip(axes[first:], looks.items(), strict=True):
            cmap, low, high = colours.get(name, (SEQUENTIAL, 0, top))
            one.imshow(values[row], cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
            if words and name != "task area":
                _write(one, values[row], cmap, low, high)
    _name(grid, ["picture"] * first + list(looks), titles)
    for axes in grid[:, first + 1]:
        axes.spines[:].set(visible=True, color="#BBBBBB")
    drawn, place = ScalarMappable(Normalize(-limit, limit), SIGNED), {"fraction": 0.05, "pad": 0.02}
    grid[0, 0].figure.colorbar(drawn, ax=grid, label="difference", aspect=15 * len(task), **place)
    return grid


def _write(axes: Axes, values: np.ndarray, cmap: str, low: float, high: float) -> None:
    """Writes the values into the cells of a map, dark on light colours and light on dark ones."""
    tones = mpl.colormaps[cmap](Normalize(low, high)(values))
    for (row, column), value in np.ndenumerate(values):
        light = tones[row, column, :3] @ [0.299, 0.587, 0.114] > 0.5
        word, colour = f"{round(value, 2) + 0:.2f}", "black" if light else "white"
        word = word.replace("0.", ".") if abs(value) < 0.995 else word
        axes.text(column, row, word, ha="center", va="center", fontsize=9, color=colour)


@styled
def score_strips(
    scores: Mapping[str, ArrayLike],
    roles: Mapping[str, str],
    *,
    x_label: str,
    chance: float | None = None,
) -> Axes:
    """Draws scores of single images as dots, with one row for each name.

    Each row also shows the density, the quartiles and the mean of its scores.

    Args:
        scores: Scores by name, each of shape (N,).

        roles: For each name the role that sets its colour, a key of ``COLOURS``.

        x_label: Label of the horizontal axis.

        chance: The score that chance gives. It is marked by a dashed line.

    Returns:
        The Axes.
    """
    axes = panels(6.0, 0.9 + 0.55 * len(scores))[0, 0]
    values = {name: np.asarray(score, dtype=float) for name, score in scores.items()}
    table = pd.concat([pd.DataFrame({"name": name, "score": score}) for name, score in values.items()])
    colours = {name: COLOURS[roles[name]] for name in scores}
    shape = {"fill": False, "inner": "quart", "cut": 0, "density_norm": "width", "linewidth": 1.2}
    sns.violinplot(table, x="score", y="name", hue="name", palette=colours, **shape, legend=False, ax=axes)
    jitter = np.random.default_rng(0)
    for row, (name, score) in enumerate(values.items()):
        height, mean = row + jitter.uniform(-0.3, 0.3, len(score)), score.mean()
        axes.scatter(score, height, s=6, color=colours[name], alpha=0.35, linewidths=0)
        axes.plot(mean, row, marker="D", color=colours[name], markeredgecolor="white", markersize=8, zorder=4)
        axes.annotate(
            f"{mean:.2f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=10
        )
    if chance is not None:
        axes.axvline(chance, color="black", linestyle="--", linewidth=1.2, zorder=2)
        axes.annotate("chance", (chance, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
    axes.annotate("mean", (1.01, 1.01), xycoords="axes fraction", fontsize=9)
    axes.set_xlabel(x_label)
    axes.set_ylabel("")
    return axes


def _picture(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="nearest")


def _grey(axes: Axes, image: np.ndarray) -> None:
    """Draws the picture in light grey, so that colours laid over it stay visible."""
    white = 255 if image.dtype == np.uint8 else 1
    axes.imshow(image @ [0.299, 0.587, 0.114], cmap="gray", vmin=-0.5 * white, vmax=white)


def _map(axes: Axes, values: np.ndarray, image: np.ndarray, scale: tuple, **options: object) -> None:
    height, width = image.shape[:2]
    place = (-0.5, width - 0.5, height - 0.5, -0.5)
    options = {"interpolation": "nearest"} | options
    axes.imshow(values, cmap=SEQUENTIAL, vmin=scale[0], vmax=scale[1], extent=place, **options)


def _outline(row: Sequence[Axes], masks: ArrayLike | None, number: int) -> None:
    if masks is not None:
        for axes in row:
            axes.contour(np.asarray(masks)[number], levels=[0.5], colors=OUTLINE, linewidths=1.2)


def _name(grid: np.ndarray, columns: Sequence[str], rows: Sequence[str] | None) -> None:
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name)
    for axes, name in zip(grid[:, 0], rows or [], strict=rows is not None):
        axes.set_ylabel(name)


def _range_of(maps: Mapping[str, np.ndarray], row: int) -> tuple[float, float]:
    """The lowest and the highest value of the maps in a row."""
    shown = [values[row] for values in maps.values()]
    return min(values.min() for values in shown), max(values.max() for values in shown)


def _relative_bar(grid: np.ndarray, label: str) -> None:
    """Adds a colour bar from the lowest to the highest value of each row."""
    drawn = ScalarMappable(Normalize(0, 1), SEQUENTIAL)
    bar = grid[0, 0].figure.colorbar(
        drawn, ax=grid, ticks=[0, 1], fraction=0.05, pad=0.02, aspect=15 * len(grid), label=label
    )
    bar.ax.set_yticklabels(["low", "high"])
