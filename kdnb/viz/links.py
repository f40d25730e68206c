"""Figures of a student and the teacher that is linked to it, one box or bar for each convolution."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike

from kdnb.viz.matrices import table_map
from kdnb.viz.style import COLOURS, MARKERS, panels, styled

GRADIENT = "#D55E00"  # Okabe-Ito vermilion, the colour of gradients
GAP = 0.7  # space between two stages, in widths of a convolution
STUDENT, TEACHER = 0.0, 1.9  # vertical positions of the two rows
HALF_WIDTH, HALF_HEIGHT = 0.43, 0.28  # of a box
NAMED = 14  # with more convolutions than this their names do not fit


@styled
def merged_graph(
    stages: Mapping[str, Sequence[str]], linked: Collection[str], *, detached: bool = False
) -> Axes:
    """Draws the merged model that ECD trains.

    The student is the lower row and its teacher the upper row. Each box is a convolution. The dashed frame
    holds what ``export()`` removes. The wiring inside the blocks is not drawn.

    Args:
        stages: Paths of the convolutions of each stage, as ``kdnb.methods.ecd.links.by_stage`` sorts them.

        linked: Paths of the convolutions whose output is added to the teacher's.

        detached: Whether the links carry no gradient back to the student.

    Returns:
        The Axes.
    """
    x, spans = _places(stages)
    right = max(x.values()) + 1.1
    axes = panels(2.3 + 0.68 * right, 3.6)[0, 0]
    frame = {"boxstyle": "round,pad=0.1", "edgecolor": COLOURS["teacher"], "facecolor": "#0072B212"}
    low, high = STUDENT + HALF_HEIGHT + 0.12, TEACHER + HALF_HEIGHT + 0.42
    axes.add_patch(FancyBboxPatch((-0.75, low), right + 1.75, high - low, linestyle="--", **frame))
    axes.text(right + 1.0, high, "removed by export()", ha="right", va="top", color=COLOURS["teacher"])
    for row, role in ((STUDENT, "student"), (TEACHER, "teacher")):
        _chain(axes, list(spans.values()), row, right)
        axes.text(-1.0, row, role, ha="right", va="center", color=COLOURS[role], fontweight="bold")
        axes.text(right, row, "cross\nentropy", ha="left", va="center", fontsize=9)
        for path, place in x.items():
            _box(axes, place, row, COLOURS[role], _short(path) if len(x) <= NAMED else "")
    for path in linked:
        _arrow(axes, (x[path] - 0.1, STUDENT + HALF_HEIGHT), (x[path] - 0.1, TEACHER - HALF_HEIGHT), "black")
        if not detached:
            down = (x[path] + 0.1, TEACHER - HALF_HEIGHT), (x[path] + 0.1, STUDENT + HALF_HEIGHT)
            _arrow(axes, *down, GRADIENT, "--")
    for name, (first, last) in spans.items():
        axes.text((first + last) / 2, STUDENT - 0.55, name, ha="center", va="center")
    axes.text(-0.6, high, "features up", ha="left", va="top")
    word = "no gradient comes down" if detached else "gradient of the teacher's loss down"
    axes.text(1.3, high, word, ha="left", va="top", color=GRADIENT)
    axes.set_xlim(-2.1, right + 1.2)
    axes.set_ylim(STUDENT - 0.8, high + 0.2)
    axes.set_axis_off()
    return axes


@styled
def returned_gradients(
    norms: Mapping[str, pd.DataFrame], stages: Mapping[str, Sequence[str]], *, top: float | None = None
) -> np.ndarray:
    """Draws how strong a gradient the teacher's loss sends to every convolution of the student.

    The unit is the gradient that the labels send to the same convolution. All panels share one scale.

    Args:
        norms: Tables made by ``kdnb.analysis.link_norms``, by title. Each table gets a panel.

        stages: Paths of the convolutions of each stage, as in ``merged_graph``.

        top: Upper end of the vertical axis. None lets matplotlib choose it.

    Returns:
        One Axes for each table.
    """
    x, spans = _places(stages)
    width = max(5.4, 0.8 + len(norms) * (0.7 + 0.19 * max(x.values())))
    grid = panels(width, 3.1, 1, len(norms), sharey=True)
    for axes, (title, table) in zip(grid[0], norms.items(), strict=True):
        places = [x[path] for path in table.index]
        own, total = (table[column] / table["label"] for column in ("own", "total"))
        axes.bar(places, own, 0.6, color=COLOURS["peer 1"], label="through its own link")
        axes.plot(
            places, total, color=COLOURS["teacher"], marker=MARKERS["teacher"], label="through all links"
        )
        axes.axhline(1, color=COLOURS["baseline"], linestyle="--", label="the labels' own pull")
        for _, last in list(spans.values())[:-1]:
            axes.axvline(last + (1 + GAP) / 2, color="#DDDDDD", linewidth=1)
        middles = [(first + last) / 2 for first, last in spans.values()]
        axes.set_xticks(middles, list(spans), rotation=0 if len(norms) == 1 else 30)
        axes.tick_params(axis="x", length=0)
        axes.set_title(title)
    grid[0, 0].set_ylim(0, top)
    grid[0, 0].set_ylabel("pull, in units of the labels'")
    grid[0, 0].figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return grid[0]


@styled
def expert_weights(
    means: Mapping[str, ArrayLike], classes: Sequence[str], *, high: float = 1.0
) -> np.ndarray:
    """Draws the mean weights of the experts of dynamic convolutions, with a row for each class.

    All panels share one colour scale, which begins at 0.

    Args:
        means: For each convolution the mean weights over the images of each class, shape (K, E) for E
            experts.

        classes: The names of the K classes.

        high: Upper end of the colour scale.

    Returns:
        One Axes for each convolution.
    """
    tables = {name: np.asarray(values, dtype=float) for name, values in means.items()}
    experts = next(iter(tables.values())).shape[1]
    width = 2.0 + (0.2 + 0.42 * experts) * len(tables)
    grid = panels(width, 1.0 + 0.27 * len(classes), 1, len(tables))
    for axes, (name, values) in zip(grid[0], tables.items(), strict=True):
        table = pd.DataFrame(values, classes, range(1, experts + 1))
        bar_label = "mean weight" if axes is grid[0, -1] else None
        table_map(axes, table, low=0.0, high=high, bar_label=bar_label, leading_zero=False)
        axes.set_title(name)
        axes.set_xlabel("expert")
        if axes is not grid[0, 0]:
            axes.set_yticks([])
    return grid[0]


def _places(stages: Mapping[str, Sequence[str]]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Returns the horizontal position of each convolution, and the first and last position of each stage."""
    x, spans, place = {}, {}, 0.0
    for name, paths in stages.items():
        x |= {path: place + number for number, path in enumerate(paths)}
        spans[name] = place, place + len(paths) - 1
        place += len(paths) + GAP
    return x, spans


def _chain(axes: Axes, spans: Sequence[tuple[float, float]], row: float, right: float) -> None:
    ends = [-1.0, *(last + HALF_WIDTH for _, last in spans)]
    starts = [*(first - HALF_WIDTH for first, _ in spans), right]
    for end, start in zip(ends, starts, strict=True):
        _arrow(axes, (end, row), (start, row), "black")


def _box(axes: Axes, x: float, y: float, colour: str, word: str) -> None:
    corner, shape = (x - HALF_WIDTH, y - HALF_HEIGHT), {"boxstyle": "round,pad=0,rounding_size=0.08"}
    size = 2 * HALF_WIDTH, 2 * HALF_HEIGHT
    axes.add_patch(FancyBboxPatch(corner, *size, facecolor=f"{colour}55", edgecolor=colour, **shape))
    axes.text(x, y, word, ha="center", va="center", fontsize=9)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, style: str = "-"
) -> None:
    arrow = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=arrow)


def _short(path: str) -> str:
    """The name of a convolution within its block, such as "shortcut" for stages.1.0.shortcut.0."""
    words = [part for part in path.split(".") if not part.isdigit() and part != "stages"]
    return words[-1] if words else path.rpartition(".")[2]
