"""The style that all figures share: colours by role, sizes, and the display of a figure with its caption."""

from base64 import b64encode
from collections.abc import Callable
from functools import wraps
from html import escape
from io import BytesIO
from typing import ParamSpec, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from kdnb.files import files_folder
from kdnb.viz.leaving import leave

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


def show(figure: Figure, caption: str, *, dpi: int = 200) -> None:
    """Displays a figure with its caption below it.

    The caption is also the alternative text of the image. It should say what can be seen and give the main
    numbers of the figure. It serves readers, screen readers, and the regression test, which cannot compare
    pictures. Browsers get HTML in which the image carries its alternative text; programs that read the
    notebook find the PNG file and the caption beside it. Under ``kdnb run`` the figure is also left as files:
    see ``kdnb.viz.leave``.

    Args:
        figure: The figure. It is closed afterwards.

        caption: The caption, in whole sentences.

        dpi: Pixels for an inch of the figure. It is shown 100 to the inch, and the rest makes it sharp on
            fine screens. A widget that draws the figure anew at every move is quicker with 100.
    """
    from IPython.display import display

    content = _png(figure, dpi)
    image = b64encode(content).decode()
    width = round(100 * figure.get_figwidth())
    words = escape(f"Figure: {caption}")
    img = f'<img src="data:image/png;base64,{image}" alt="{escape(caption)}" width="{width}"/>'
    html = f"<figure>{img}<figcaption>{words}</figcaption></figure>"
    if folder := files_folder():
        leave(figure, content, caption, folder)
    plt.close(figure)
    forms = {"image/png": image, "text/html": html, "text/plain": f"Figure: {caption}"}
    display(forms, metadata={"image/png": {"alt": caption, "width": width}}, raw=True)


def _png(figure: Figure, dpi: int) -> bytes:
    """The figure as a PNG file; a fine one has a palette of 256 colours, which makes it half as large."""
    content = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(content, format="png", dpi=dpi)
    if dpi <= 100:
        return content.getvalue()
    picture = Image.open(content).convert("RGB")
    smaller = BytesIO()
    picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(smaller, "png")
    return smaller.getvalue()
