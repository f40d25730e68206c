"""Figures of numbers side by side, and of who hands what to whom."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import LogLocator, NullFormatter

from kdnb.viz.style import COLOURS, MARKERS, panels, styled

BOX_WIDTH, BOX_HEIGHT = 0.86, 0.5  # in the units of a diagram, in which columns and rows are 1 apart


@styled
def dots_by_row(
    table: pd.DataFrame,
    roles: Mapping[str, str],
    *,
    x_label: str,
    marks: Mapping[str, float] | None = None,
    log: bool = False,
) -> Axes:
    """Draws the numbers of a table as dots on one axis, a row for each row of the table.

    A line joins the dots of a row. The numbers stand at its right, in the order of the columns.

    Args:
        table: The numbers, with one row for each row of the figure and one column for each kind of dot.

        roles: For each column the role that sets its colour and marker, a key of ``COLOURS``.

        x_label: Label of the horizontal axis.

        marks: Values to mark with a dashed line, by the words that stand over it.

        log: Whether the horizontal axis is logarithmic.

    Returns:
        The Axes.
    """
    axes = panels(7.6, 1.5 + 0.42 * len(table))[0, 0]
    rows = np.arange(len(table))
    axes.hlines(rows, table.min(axis=1), table.max(axis=1), color="#BBBBBB", linewidth=1, zorder=1)
    for name in table:
        role = roles[name]
        axes.scatter(table[name], rows, color=COLOURS[role], marker=MARKERS[role], s=50, label=name, zorder=2)
    for row, numbers in enumerate(table.to_numpy(dtype=float)):
        words = "  ".join(f"{number:,.0f}" if number >= 1000 else f"{number:.3g}" for number in numbers)
        axes.annotate(words, (1.02, row), xycoords=("axes fraction", "data"), va="center")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for words, value in (marks or {}).items():
        axes.axvline(value, color="black", linestyle="--", linewidth=1, zorder=0)
        axes.annotate(words, (value, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
    axes.set_yticks(rows, list(table.index))
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel(x_label)
    axes.figure.legend(loc="outside upper center", ncols=min(2, len(table.columns)))
    return axes


@styled
def flow_diagram(
    boxes: Mapping[str, tuple[float, float]],
    arrows: Sequence[tuple[str, str]],
    roles: Mapping[str, str],
    *,
    frozen: Collection[str] = (),
) -> Axes:
    """Draws which part of a method hands its output to which other part.

    Args:
        boxes: The place (column, row) of each part, by the words in its box. Columns count from the left and
            rows from the bottom.

        arrows: Pairs of names: the part that gives, and the part that receives.

        roles: For each part with a colour its role, a key of ``COLOURS``. The others are grey.

        frozen: The parts that do not learn. Their boxes have dashed outlines.

    Returns:
        The Axes.
    """
    places = np.array(list(boxes.values()), dtype=float)
    (left, low), (right, high) = places.min(0), places.max(0)
    axes = panels(1.55 * (right - left + 1), 1.35 * (high - low + 1))[0, 0]
    drawn = {}
    for name, (across, up) in boxes.items():
        colour = COLOURS[roles[name]] if name in roles else "#999999"
        line = "--" if name in frozen else "-"
        corner = (across - BOX_WIDTH / 2, up - BOX_HEIGHT / 2)
        look = {"boxstyle": "round,pad=0,rounding_size=0.06", "linewidth": 1.8, "linestyle": line}
        drawn[name] = FancyBboxPatch(corner, BOX_WIDTH, BOX_HEIGHT, fc="white", ec=colour, **look)
        axes.add_patch(drawn[name])
        axes.text(across, up, name, ha="center", va="center", fontsize=9)
    for giver, receiver in arrows:
        ends = {"patchA": drawn[giver], "patchB": drawn[receiver], "shrinkA": 2, "shrinkB": 2}
        look = {"arrowstyle": "-|>", "mutation_scale": 12, "color": "#444444"}
        axes.add_patch(FancyArrowPatch(boxes[giver], boxes[receiver], **ends, **look))
    axes.set_xlim(left - 0.5, right + 0.5)
    axes.set_ylim(low - 0.35, high + 0.35)
    axes.set_axis_off()
    return axes


def srrl_flow() -> Axes:
    """Draws what SRRL computes, from the picture to its three losses.

    Returns:
        The Axes.
    """
    trunk, own, link = "student's trunk", "student's\nown head", "connector,\nthen average"
    teacher, mean, head = "teacher's trunk", "average", "teacher's\nhead"
    label, matching, regression = "label loss", "feature\nmatching", "softmax\nregression"
    boxes = {
        "picture": (0, 0.7),
        trunk: (1, 1.4),
        own: (2, 2.1),
        label: (3, 2.1),
        link: (2, 1.4),
        matching: (2, 0.7),
        teacher: (1, 0),
        mean: (2, 0),
        head: (3, 0.7),
        regression: (4, 0.7),
    }
    arrows = [("picture", trunk), (trunk, own), (own, label), (trunk, link), ("picture", teacher)]
    arrows += [(teacher, mean), (link, matching), (mean, matching), (link, head), (mean, head)]
    arrows.append((head, regression))
    roles = dict.fromkeys([trunk, own, link], "student") | dict.fromkeys([teacher, mean, head], "teacher")
    return flow_diagram(boxes, arrows, roles, frozen=[teacher, mean, head])
