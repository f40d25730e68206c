"""How every figure looks: colours by role, sizes, and the caption that goes with it."""

from io import BytesIO

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

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


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options):
    """A figure in the house style, ``width`` x ``height`` inches, and its array of Axes."""
    with mpl.rc_context(STYLE):
        return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)


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
