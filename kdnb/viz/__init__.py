"""Arrays in, matplotlib Axes out; ``show`` puts a figure with its caption on the page."""

from kdnb.viz.figures import (
    curves,
    gradient_ledger,
    paired_runs,
    picture_grid,
    similarity_maps,
    soft_label_bars,
)
from kdnb.viz.style import COLOURS, MARKERS, show

__all__ = [
    "COLOURS",
    "MARKERS",
    "curves",
    "gradient_ledger",
    "paired_runs",
    "picture_grid",
    "show",
    "similarity_maps",
    "soft_label_bars",
]
