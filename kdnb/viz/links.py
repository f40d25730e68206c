"""Figures of a student and the teacher that is linked to it, one box or bar for each convolution."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike

from kdnb.viz.matrices import table_map
from kdnb.viz.style import COLOURS, MARKERS, panels, styled

GRADIENT = "#D55E00"  # Okabe-Ito vermilion, the colour of gradients
GAP = 0.7  # space between two stages
STEP = 1.22  # from the middle of a convolution to that of the next
STUDENT, TEACHER = 0.0, 2.0  # vertical positions of the two rows
BYPASS = 0.95  # distance of a shortcut from its row: below the student's, above the teacher's
HALF_WIDTH, HALF_HEIGHT = 0.45, 0.26  # of a box
SUM = 0.15  # radius of a circle in which two maps are added
NAMED = 14  # with more convolutions than this their names do not fit
WIDEST = 13.0  # inches of a figure
SHORTCUTS = ("shortcut", "downsample")  # names of the shortcut in a residual block


class _Block(NamedTuple):
    """Where a residual block is drawn: its input is forked at ``fork`` and added again at ``sum``."""

    fork: float
    sum: float
    main: list[float]  # the convolutions of the main path
    shortcut: float | None  # None for a shortcut without a convolution


class _Layout(NamedTuple):
    x: dict[str, float]  # of every convolution
    shortcuts: set[str]  # the paths that lie on a bypass
    blocks: list[_Block]
    chain: list[tuple[float, float]]  # start and end of everything on the main path, in order
    spans: dict[str, tuple[float, float]]  # of every stage


@styled
def merged_graph(
    stages: Mapping[str, Sequence[str]],
    linked: Collection[str],
    *,
    blocks: Collection[str] = (),
    detached: bool = False,
) -> Axes:
    """Draws the merged model that ECD trains.

    The student is the lower half and its teacher the upper half. Each box is a convolution. The dashed frame
    holds what ``export()`` removes. A residual block is drawn with its shortcut, which goes round the main
    path, and with the sum of both. Batch norms and ReLUs are not drawn.

    Args:
        stages: Paths of the convolutions of each stage, as ``kdnb.methods.ecd.links.by_stage`` sorts them.

        linked: Paths of the convolutions whose output is added to the teacher's.

        blocks: Paths of the residual blocks, as ``kdnb.methods.ecd.links.residual_blocks`` finds them.

        detached: Whether the links carry no gradient back to the student.

    Returns:
        The Axes.
    """
    layout = _layout(stages, blocks)
    right = max(end for _, end in layout.chain) + 0.75
    axes = panels(min(WIDEST, 2.0 + 0.65 * right), 4.4)[0, 0]
    low, high = STUDENT + HALF_HEIGHT + 0.3, TEACHER + BYPASS + HALF_HEIGHT + 0.75
    frame = {"boxstyle": "round,pad=0.1", "edgecolor": COLOURS["teacher"], "facecolor": "#0072B212"}
    axes.add_patch(FancyBboxPatch((-1.0, low), right + 2.1, high - low, linestyle="--", **frame))
    axes.text(right + 1.0, high, "removed by export()", ha="right", va="top", color=COLOURS["teacher"])
    for row, role, side in ((STUDENT, "student", -BYPASS), (TEACHER, "teacher", BYPASS)):
        _network(axes, layout, row, side, role, right)
    for path in linked:
        up = BYPASS if path in layout.shortcuts else 0.0
        ends = STUDENT - up + HALF_HEIGHT, TEACHER + up - HALF_HEIGHT
        _link(axes, layout.x[path], *ends, detached=detached)
    for name, (first, last) in layout.spans.items():
        axes.text((first + last) / 2, STUDENT - BYPASS - 0.6, name, ha="center", va="center")
    _key(axes, (-0.9, high), detached=detached)
    axes.set_xlim(-2.3, right + 1.25)
    axes.set_ylim(STUDENT - BYPASS - 0.85, high + 0.2)
    axes.set_axis_off()
    return axes


@styled
def linked_block() -> Axes:
    """Draws one residual block of the student and of the teacher, layer by layer, with its three links.

    Returns:
        The Axes.
    """
    axes = panels(10.4, 4.9)[0, 0]
    top = 2.5  # height of the teacher's row
    for row, role, side in ((0.0, "student", -1.1), (top, "teacher", 1.1)):
        _layers(axes, row, row + side, role)
    for x, up in ((2.1, 0.0), (6.7, 0.0), (4.9, 1.1)):
        _link(axes, x, -up, top + up - SUM, detached=False)
    _key(axes, (-0.3, top + 1.85), detached=False)
    axes.set_xlim(-1.0, 10.5)
    axes.set_ylim(-1.6, top + 2.0)
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


def _layout(stages: Mapping[str, Sequence[str]], blocks: Collection[str]) -> _Layout:
    """Places convolutions from left to right, in a residual block the shortcut's beside the others."""
    found = _Layout({}, set(), [], [], {})
    place = 0.0
    for name, paths in stages.items():
        begin = place
        for block, inside in _by_block(paths, blocks):
            around = [path for path in inside if block and _is_shortcut(path, block)]
            main = [path for path in inside if path not in around]
            places = [place + STEP * number for number in range(len(main))]
            found.x.update(zip(main, places, strict=True))
            found.shortcuts.update(around)
            place, end = places[-1] + STEP, places[-1] + HALF_WIDTH
            if block is not None:
                place, end = place + 0.95, end + 0.5 + SUM
                middle = places[0] + STEP / 2 if around else None
                found.x.update(dict.fromkeys(around, middle))
                found.blocks.append(_Block(places[0] - 0.75, end - SUM, places, middle))
            found.chain.append((places[0] - HALF_WIDTH, end))
        found.spans[name] = begin, found.chain[-1][1]
        place += GAP
    return found


def _by_block(paths: Sequence[str], blocks: Collection[str]) -> list[tuple[str | None, list[str]]]:
    """The paths of each block together; a path outside of all blocks is alone, with None."""
    found: list[tuple[str | None, list[str]]] = []
    for path in paths:
        block = next((block for block in blocks if path.startswith(f"{block}.")), None)
        if block is not None and found and found[-1][0] == block:
            found[-1][1].append(path)
        else:
            found.append((block, [path]))
    return found


def _is_shortcut(path: str, block: str) -> bool:
    return path.removeprefix(f"{block}.").split(".")[0] in SHORTCUTS


def _network(axes: Axes, layout: _Layout, row: float, side: float, role: str, right: float) -> None:
    """Draws the convolutions of one network at the height ``row``, and shortcuts at ``row + side``."""
    colour, named = COLOURS[role], len(layout.x) <= NAMED
    ends = [-1.0, *(end for _, end in layout.chain)]
    for end, start in zip(ends, [*(start for start, _ in layout.chain), right], strict=True):
        _arrow(axes, (end, row), (start, row), "black")
    for path, x in layout.x.items():
        height = row + side * (path in layout.shortcuts)
        _box(axes, x, height, colour, _short(path) if named else "")
    for block in layout.blocks:
        _within(axes, block, row)
        _bypass(axes, block, row, row + side)
    axes.text(-1.15, row, role, ha="right", va="center", color=colour, fontweight="bold")
    axes.text(right + 0.05, row, "cross\nentropy", ha="left", va="center", fontsize=9)


def _within(axes: Axes, block: _Block, row: float) -> None:
    """Draws the arrows between the convolutions of a block, and from the last one to the sum."""
    for x, following in zip(block.main, [*block.main[1:], block.sum - SUM + HALF_WIDTH], strict=True):
        _arrow(axes, (x + HALF_WIDTH, row), (following - HALF_WIDTH, row), "black")
    _plus(axes, block.sum, row)


def _bypass(axes: Axes, block: _Block, row: float, height: float) -> None:
    """Draws the way of the block's input round the main path, through the shortcut's box if there is one."""
    axes.plot(block.fork, row, marker="o", markersize=4, color="black")
    edge = row + SUM * np.sign(height - row)
    if block.shortcut is None:
        _way(axes, [(block.fork, row), (block.fork, height), (block.sum, height), (block.sum, edge)])
        return
    left, right = block.shortcut - HALF_WIDTH, block.shortcut + HALF_WIDTH
    _way(axes, [(block.fork, row), (block.fork, height), (left, height)])
    _way(axes, [(right, height), (block.sum, height), (block.sum, edge)])


def _layers(axes: Axes, row: float, around: float, role: str) -> None:
    """Draws the layers of one residual block at the height ``row``, and its shortcut at ``around``."""
    colour, conv = COLOURS[role], "dynamic\nconv" if role == "teacher" else "conv"
    main = [(1.1, conv), (2.1, "link"), (3.0, "batch\nnorm"), (4.1, "ReLU"), (5.7, conv), (6.7, "link")]
    main += [(7.6, "batch\nnorm"), (8.6, "+"), (9.4, "ReLU")]
    beside = [(3.8, conv), (4.9, "link"), (5.9, "batch\nnorm")]
    end = _in_a_row(axes, main, row, colour, 0.0)
    _arrow(axes, (end, row), (end + 0.5, row), "black")
    edge = row + SUM * np.sign(around - row)
    axes.plot(0.35, row, marker="o", markersize=4, color="black")
    _way(axes, [(0.35, row), (0.35, around), (beside[0][0] - HALF_WIDTH, around)])
    end = _in_a_row(axes, beside, around, colour, None)
    _way(axes, [(end, around), (8.6, around), (8.6, edge)])
    axes.text(-0.1, row, role, ha="right", va="center", color=colour, fontweight="bold")
    axes.text(1.1, around, "shortcut", ha="left", va="bottom", fontsize=9)


def _in_a_row(
    axes: Axes, layers: Sequence[tuple[float, str]], row: float, colour: str, end: float | None
) -> float:
    """Draws layers with arrows between them, and returns where the last one ends.

    The student's output is only read where a link begins; the teacher's is added to there.
    """
    for x, word in layers:
        reads = word == "link" and colour == COLOURS["student"]
        half = 0.0 if reads else SUM if word in ("link", "+") else HALF_WIDTH
        if end is not None and not reads:
            _arrow(axes, (end, row), (x - half, row), "black")
        if reads:
            axes.plot([end, x], [row, row], color="black", linewidth=1)
            axes.plot(x, row, marker="o", markersize=4, color="black")
        elif half == SUM:
            _plus(axes, x, row)
        else:
            _box(axes, x, row, colour, word)
        end = x + half
    return end


def _key(axes: Axes, place: tuple[float, float], *, detached: bool) -> None:
    """Says what the two kinds of vertical arrows are."""
    axes.text(*place, "features up", ha="left", va="top")
    word = "no gradient comes down" if detached else "gradient of the teacher's loss down"
    beside = {"xytext": (85, 0), "textcoords": "offset points"}
    axes.annotate(word, place, **beside, ha="left", va="top", color=GRADIENT)


def _link(axes: Axes, x: float, bottom: float, top: float, *, detached: bool) -> None:
    """Draws a link at x, and beside it the gradient that comes back."""
    _arrow(axes, (x - 0.06, bottom), (x - 0.06, top), "black")
    if not detached:
        _arrow(axes, (x + 0.06, top), (x + 0.06, bottom), GRADIENT, "--")


def _box(axes: Axes, x: float, y: float, colour: str, word: str) -> None:
    corner, shape = (x - HALF_WIDTH, y - HALF_HEIGHT), {"boxstyle": "round,pad=0,rounding_size=0.08"}
    size = 2 * HALF_WIDTH, 2 * HALF_HEIGHT
    axes.add_patch(FancyBboxPatch(corner, *size, facecolor=_light(colour), edgecolor=colour, **shape))
    axes.text(x, y, word, ha="center", va="center", fontsize=9)


def _light(colour: str) -> tuple[float, float, float]:
    """A light tint of a colour. It is opaque, so that no line shines through a box."""
    return tuple(1 - (1 - np.array(to_rgb(colour))) / 3)


def _plus(axes: Axes, x: float, y: float) -> None:
    look = {"markersize": 14, "markerfacecolor": "white", "markeredgecolor": "black", "zorder": 2}
    axes.plot(x, y, marker="o", **look)
    axes.text(x, y, "+", ha="center", va="center_baseline", fontsize=11)


def _way(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Draws a line through points whose last part is an arrow."""
    axes.plot(*zip(*points[:-1], strict=True), color="black", linewidth=1)
    _arrow(axes, points[-2], points[-1], "black")


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, style: str = "-"
) -> None:
    arrow = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=arrow)


def _short(path: str) -> str:
    """The name of a convolution within its block, such as "shortcut" for stages.1.0.shortcut.0."""
    words = [part for part in path.split(".") if not part.isdigit() and part != "stages"]
    return words[-1] if words else path.rpartition(".")[2]
