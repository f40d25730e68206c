"""The style that all figures share: colours by role, sizes, and the display of a figure with its caption."""

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

# Okabe-Ito colours. Each role keeps its colour, and its marker differs as well for colour-blind readers.
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
    """Decorates a figure function so that it draws in the style of the course.

    Matplotlib's own settings are the same before and after the call.

    Args:
        draw: A function that draws a figure.

    Returns:
        The same function, run under the settings in ``STYLE``.
    """

    @wraps(draw)
    def in_style(*arguments: Arguments.args, **options: Arguments.kwargs) -> Drawn:
        with mpl.rc_context(STYLE):
            return draw(*arguments, **options)

    return in_style


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: object) -> np.ndarray:
    """Makes a new figure with a grid of panels.

    Args:
        width: Width of the figure in inches.

        height: Height of the figure in inches.

        rows: Rows of the grid.

        columns: Columns of the grid.

        options: Further arguments of ``matplotlib.pyplot.subplots``.

    Returns:
        The Axes, shape (rows, columns).
    """
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)[1]


def show(figure: Figure, caption: str) -> None:
    """Displays a figure as a PNG and prints its caption below it.

    The caption is also the alternative text of the image. It should say what can be seen and give the main
    numbers of the figure. It serves readers, screen readers, and the regression test, which cannot compare
    pictures.

    Args:
        figure: The figure. It is closed afterwards.

        caption: The caption, in whole sentences.
    """
    from IPython.display import Image, display

    content = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(content, format="png", dpi=100)
    plt.close(figure)
    display(Image(content.getvalue(), alt=caption))
    display({"text/plain": f"Figure: {caption}"}, raw=True)
