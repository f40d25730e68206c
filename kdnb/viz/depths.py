"""Figures of networks that run at several depths.

They show what each depth costs, and which loss term teaches which block.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FixedLocator
from numpy.typing import ArrayLike

from kdnb.viz.style import COLOURS, MARKERS, SEQUENTIAL, panels, styled

STYLES = {"teacher": "-", "student": "-", "baseline": "--", "peer 1": "-.", "peer 2": ":", "peer 3": ":"}


@styled
def accuracy_against_costs(
    accuracies: Mapping[str, Mapping[int, ArrayLike]],
    costs: Mapping[str, Mapping[int, float]],
    roles: Mapping[str, str],
) -> np.ndarray:
    """Draws accuracy against cost for families of networks that come in several depths.

    There is one panel for each kind of cost, one line for each family, and one point for each depth. The
    upper axis names the depths.

    Args:
        accuracies: Test accuracy in percent by family, then by depth. A value is either one number or a
            sequence with one number for each seed. With several seeds, each seed is a faint dot and the line
            runs through the means.

        costs: The kinds of cost by their axis label, such as "MACs (millions)", then the cost by depth.

        roles: For each family the role that sets its colour and marker, a key of ``COLOURS``.

    Returns:
        One Axes for each kind of cost.
    """
    grid = panels(0.9 + 3.6 * len(costs), 3.6, 1, len(costs), sharey=True)
    for axes, (label, price) in zip(grid[0], costs.items(), strict=True):
        for name, by_depth in accuracies.items():
            _family(axes, name, by_depth, price, roles[name])
        shown = sorted({depth for by_depth in accuracies.values() for depth in by_depth})
        above = axes.secondary_xaxis("top")
        above.xaxis.set_major_locator(FixedLocator([price[depth] for depth in shown]))
        above.set_xticklabels(shown)
        above.spines[:].set_visible(False)
        above.set_xlabel("layers")
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
    grid[0, 0].set_ylabel("test accuracy (%)")
    grid[0, 0].set_ylim(bottom=0)
    families = grid[0, 0].get_legend_handles_labels()
    grid[0, 0].figure.legend(*families, loc="outside lower center", ncols=2 if len(costs) == 1 else 4)
    return grid[0]


def _family(
    axes: Axes, name: str, by_depth: Mapping[int, ArrayLike], price: Mapping[int, float], role: str
) -> None:
    depths = sorted(by_depth)
    seeds = {depth: np.atleast_1d(np.asarray(by_depth[depth], dtype=float)) for depth in depths}
    look = {"color": COLOURS[role], "marker": MARKERS[role]}
    across = [price[depth] for depth in depths]
    axes.plot(across, [seeds[depth].mean() for depth in depths], STYLES[role], label=name, **look)
    for x, values in zip(across, seeds.values(), strict=True):
        if len(values) > 1:
            axes.scatter(np.full(len(values), x), values, s=14, alpha=0.3, linewidths=0, **look)


@styled
def ledger_staircase(ledger: pd.DataFrame) -> Axes:
    """Draws which loss term sends a gradient to which block of the network.

    A cell is coloured by the decade of its gradient norm. A cell without a gradient stays white and shows 0.
    A line separates the networks, and a gap separates the stages.

    Args:
        ledger: Gradient norms. The index holds the names of the terms, in the form "net/term". The columns
            hold pairs (stage, block).

    Returns:
        The Axes.
    """
    values = ledger.to_numpy(dtype=float)
    stages = [stage for stage, _ in ledger.columns]
    gaps = np.cumsum([0.0, *(0.25 * (a != b) for a, b in pairwise(stages))])
    left = np.arange(len(stages)) + gaps
    axes = panels(2.3 + 0.72 * left[-1], 1.2 + 0.36 * len(ledger))[0, 0]
    decades = np.log10(values, where=values > 0, out=np.full(values.shape, np.nan))
    low, high = np.floor(np.nanmin(decades)), np.ceil(np.nanmax(decades))
    for column, x in enumerate(left):
        drawn = axes.imshow(
            decades[:, column : column + 1],
            cmap=SEQUENTIAL,
            vmin=low,
            vmax=high,
            extent=(x - 0.48, x + 0.48, len(ledger) - 0.5, -0.5),
            aspect="auto",
        )
    for (row, column), value in np.ndenumerate(values):
        dark = value > 0 and decades[row, column] < (low + high) / 2
        colour = "white" if dark else "black"
        axes.text(left[column], row, _short(value), ha="center", va="center", fontsize=9, color=colour)
    _name_rows_and_columns(axes, ledger, left)
    axes.figure.colorbar(drawn, ax=axes, label="log10 of the norm")
    return axes


def _name_rows_and_columns(axes: Axes, ledger: pd.DataFrame, left: np.ndarray) -> None:
    nets = [name.split("/")[0] for name in ledger.index]
    for row in np.flatnonzero([a != b for a, b in pairwise(nets)]):
        axes.axhline(row + 0.5, color="black", linewidth=1.5)
    axes.set_xlim(left[0] - 0.5, left[-1] + 0.5)
    axes.set_ylim(len(ledger) - 0.5, -0.5)
    axes.set_yticks(range(len(ledger)), ledger.index)
    axes.set_xticks(left, [block for _, block in ledger.columns])
    axes.set_xlabel("block")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    stages = np.array([stage for stage, _ in ledger.columns])
    for stage in dict.fromkeys(stages):
        middle = left[stages == stage].mean()
        axes.annotate(stage, (middle, 1.03), xycoords=("data", "axes fraction"), ha="center", fontsize=10)


def _short(value: float) -> str:
    """Two digits of a number, without a zero before the decimal point."""
    return f"{value:.2g}".removeprefix("0") if value else "0"


@styled
def depth_at_work(
    image: ArrayLike,
    attention: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    costs: Mapping[str, tuple[float, float]],
    *,
    truth: int | None = None,
) -> np.ndarray:
    """Draws what a network does with one picture at one depth, and what this depth costs.

    The four panels show the picture, the attention map, the probabilities, and the costs as shares of the
    full network's costs.

    Args:
        image: The picture, shape (H, W, 3).

        attention: The attention map, shape (h, w). It is drawn at its own resolution.

        probabilities: The probabilities of the classes, shape (K,).

        classes: The names of the K classes.

        costs: For each kind of cost a pair: the cost at this depth, and the cost of the full network.

        truth: The number of the true class, whose bar is drawn darker. None draws all bars alike.

    Returns:
        The four Axes, shape (4,).
    """
    in_words, image, attention = EngFormatter(places=1), np.asarray(image), np.asarray(attention, dtype=float)
    margins = {"left": 0.01, "right": 0.99, "bottom": 0.1, "top": 0.9, "wspace": 0.6}
    shape = {"width_ratios": [1, 1, 0.9, 1.1], "gridspec_kw": margins, "layout": "none"}
    grid = panels(9.0, 2.6, 1, 4, **shape)  # a slider redraws this figure often, so its margins are fixed
    height, width = image.shape[:2]
    grid[0, 0].imshow(image, interpolation="nearest")
    place = (-0.5, width - 0.5, height - 0.5, -0.5)
    grid[0, 1].imshow(attention, cmap=SEQUENTIAL, extent=place, interpolation="nearest")
    for axes, title in zip(grid[0, :2], ("picture", "attention"), strict=True):
        axes.set_axis_off()
        axes.set_title(title)
    bars = grid[0, 2].barh(classes, np.asarray(probabilities), color=COLOURS["student"], alpha=0.55)
    if truth is not None:
        bars[truth].set_alpha(1.0)
    grid[0, 2].set(xlim=(0, 1), title="answer")
    grid[0, 2].invert_yaxis()
    for row, (own, full) in enumerate(costs.values()):
        grid[0, 3].barh(row, own / full, color=COLOURS["teacher"])
        grid[0, 3].annotate(in_words(own), (own / full + 0.04, row), va="center", fontsize=9)
    grid[0, 3].set_yticks(range(len(costs)), list(costs))
    grid[0, 3].set(xlim=(0, 1.9), xticks=[0, 0.5, 1], title="share of the full net's")
    grid[0, 3].invert_yaxis()
    return grid[0]
