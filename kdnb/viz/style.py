"""How every figure looks: colours by role, sizes, and the caption that goes with it."""

from collections.abc import Callable
from functools import wraps
from io import BytesIO
from typing import ParamSpec, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")
Drawn = TypeVar("Drawn")

# Okabe-Ito colours with fixed roles; marker and line style vary with colour.
COLOURS = {
    "teacher": "#0072B2",
    "student": "#E69F00",
    "baseline": "#666666",
    "peer 1": "#009E73",
    "peer 2": "#CC79A7",
    "peer 3": "#56B4E9",
}
MARKERS = {
    "teacher": "s",
    "student": "o",
    "baseline": "^",
    "peer 1": "D",
    "peer 2": "v",
    "peer 3": "P",
}
SEQUENTIAL, SIGNED = "cividis", "RdBu_r"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
}


def styled(draw: Callable[Arguments, Drawn]) -> Callable[Arguments, Drawn]:
    """A figure function that draws in the house style, and leaves matplotlib's settings alone."""

    @wraps(draw)
    def in_style(*arguments: Arguments.args, **options: Arguments.kwargs) -> Drawn:
        with mpl.rc_context(STYLE):
            return draw(*arguments, **options)

    return in_style


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: object) -> np.ndarray:
    """The Axes of a new figure, as a grid (rows, columns); width and height in inches."""
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)[1]


def show(figure: Figure, caption: str) -> None:
    """Displays ``figure`` as a PNG whose alternative text is ``caption``, and prints the caption.

    The caption says what to see, with the figure's main numbers: for readers, for screen readers, and
    for the regression test, which cannot compare pictures.
    """
    from IPython.display import Image, display

    content = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(content, format="png", dpi=100)
    plt.close(figure)
    display(Image(content.getvalue(), alt=caption))
    display({"text/plain": f"Figure: {caption}"}, raw=True)
