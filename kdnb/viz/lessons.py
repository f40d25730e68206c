"""Draws who teaches whom, as it was read off a method."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

from kdnb.viz.style import COLOURS, panels, styled

LABELS = "labels"
APART = 1.9  # distance of two networks in a row
ABOVE = 1.3  # height of the upper row over the lower one
BEND = 0.38  # of an arrow between two networks of one row


@styled
def who_teaches_whom(ledger: pd.DataFrame, influences: pd.DataFrame) -> Axes:
    """Draws the networks of a method, with an arrow from everything that teaches to what learns from it.

    A network teaches through a term if the term depends on its weights and sends it no gradient. The names
    of the terms stand at the arrows, without the network's own name. Networks that never learn stand in the
    upper row. Between two networks of the lower row, arrows to the right run above and arrows to the left
    below.

    Args:
        ledger: As ``kdnb.method.ledger`` returns it.

        influences: As ``kdnb.method.influences`` returns it, of the same method.

    Returns:
        The Axes.
    """
    moved = ledger[[name for name in ledger if name in influences]] > 0
    learners = [name for name in moved if moved[name].any()]
    teachers = [name for name in moved if not moved[name].any()]
    arrows = _arrows(moved, influences)
    width = max(len(learners), len(teachers))
    reach = max((abs(learners.index(a) - learners.index(b)) for a, b in arrows if a in learners), default=0)
    arc = BEND * APART * reach / 2
    top = max(ABOVE if teachers else 0.0, arc) + 0.4
    axes = panels(1.25 * APART * (width + 0.2), 1.15 * (top + arc + 0.9))[0, 0]
    places = {name: (APART * column, 0.0) for column, name in enumerate(learners)}
    places |= {name: (APART * column, ABOVE) for column, name in enumerate(teachers)}
    for name, place in places.items():
        _box(axes, name, place, COLOURS["teacher" if name in teachers else "student"])
    for (source, learner), words in arrows.items():
        if source == LABELS:
            _from_the_labels(axes, places[learner], ", ".join(words))
        else:
            _arrow(axes, places[source], places[learner], "\n".join(words))
    axes.set_xlim(-0.9, APART * (width - 1) + 0.9)
    axes.set_ylim(-max(0.95, arc + 0.3), top)
    axes.set_axis_off()
    return axes


def _arrows(moved: pd.DataFrame, influences: pd.DataFrame) -> dict[tuple[str, str], list[str]]:
    """For every pair of source and learner the terms that lead from one to the other."""
    found: dict[tuple[str, str], list[str]] = {}
    for term, flows in moved.iterrows():
        for source in _sources(influences.loc[term], flows):
            for learner in flows.index[flows]:
                found.setdefault((source, learner), []).append(term.split("/")[-1])
    return {pair: list(dict.fromkeys(words)) for pair, words in found.items()}


def _sources(depends: pd.Series, flows: pd.Series) -> Iterator[str]:
    for name, does in depends.items():
        if does and (name == LABELS or not flows[name]):
            yield name


def _box(axes: Axes, name: str, place: tuple[float, float], colour: str) -> None:
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": colour, "linewidth": 2}
    axes.text(*place, name.replace("_", "\n"), ha="center", va="center", bbox=box, zorder=3)


def _from_the_labels(axes: Axes, place: tuple[float, float], words: str) -> None:
    x, y = place
    grey = COLOURS["baseline"]
    axes.annotate(
        f"labels: {words}" if words != "label" else "labels",
        (x, y - 0.22),
        (x, y - 0.75),
        ha="center",
        color=grey,
        fontsize=9,
        arrowprops={"arrowstyle": "-|>", "color": grey},
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], words: str) -> None:
    across, up = end[0] - start[0], end[1] - start[1]
    bend = 0.0 if up else -BEND
    arrow = FancyArrowPatch(
        start,
        end,
        connectionstyle=f"arc3,rad={bend}",
        arrowstyle="-|>",
        mutation_scale=14,
        shrinkA=22,
        shrinkB=22,
        linewidth=1.6,
        color="black",
        zorder=1,
    )
    axes.add_patch(arrow)
    along = 0.55 if up else 0.5
    x, y = start[0] + along * across, start[1] + along * up - bend * across / 2
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(x, y, words, ha="center", va="center", fontsize=9, zorder=2, bbox=white)
