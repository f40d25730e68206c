"""Figures: Axes out, text large enough to read, no torch, and a caption as alternative text."""

import subprocess
import sys
from base64 import b64decode
from io import BytesIO
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_hex
from matplotlib.text import Text
from PIL import Image

from kdnb import viz
from kdnb.viz import style

pytestmark = pytest.mark.usefixtures("no_windows")

RANDOM = np.random.default_rng(0)
NAMES = ["cat", "dog", "owl"]
LEDGER = pd.DataFrame(
    [[0.5, 0.0], [123.0, 2e-4]],
    index=["student/label", "student/soft"],
    columns=["student", "teacher"],
)
INFLUENCES = pd.DataFrame(
    [[True, False, True], [True, True, False]],
    index=LEDGER.index,
    columns=["student", "teacher", "labels"],
)


def draw_all(kind=np.asarray) -> dict:
    """Every figure, its arrays given as ``kind``."""
    square = [[1.0, 0.2, 0.3], [0.2, 1.0, 0.1], [0.3, 0.1, 1.0]]
    roles = {"KD": "student", "labels only": "baseline"}
    return {
        "picture_grid": viz.picture_grid(
            [kind(RANDOM.random((4, 4, 3)).tolist()), kind(RANDOM.random((4, 4)).tolist())],
            ["one", "two"],
            columns=3,
        ),
        "soft_label_bars": viz.soft_label_bars(
            {"T = 1": kind([0.9, 0.1, 0.0]), "T = 4": kind([0.5, 0.3, 0.2])}, NAMES, truth=1
        ),
        "curves": viz.curves(
            {
                "KD": (kind([1, 2, 3]), kind([3.0, 2.0, 1.0])),
                "labels only": (range(3), kind([1, 2, 3])),
            },
            roles,
            x_label="epoch",
            y_label="loss",
            log=True,
        ),
        "effect_panels": viz.effect_panels({"a": {"x": (1.0, 0.5, 2)}, "b": {"x": (0, -1, 1)}}, x_label="r"),
        "paired_runs": viz.paired_runs({"labels only": kind([60.0, 62.0]), "KD": kind([64.0, 65.0])}, roles),
        "similarity_maps": viz.similarity_maps({"a": kind(square), "b": kind(square)}, NAMES),
        "gradient_ledger": viz.gradient_ledger(LEDGER),
        "who_teaches_whom": viz.who_teaches_whom(LEDGER, INFLUENCES),
        **draw_maps(kind),
        **draw_tables(kind),
        **draw_links(kind),
        **draw_depths(kind),
        **draw_judges(kind),
    }


def draw_judges(kind) -> dict:
    return {
        "dots_by_row": viz.dots_by_row(
            pd.DataFrame({"KD": [1.0, 2.0]}, ["own head", "other head"]), {"KD": "student"}, x_label="error"
        ),
        "flow_diagram": viz.flow_diagram(
            {"picture": (0, 0), "student": (1, 0)}, [("picture", "student")], {"student": "student"}
        ),
        "srrl_flow": viz.srrl_flow(),
    }


def draw_links(kind) -> dict:
    stages = {"stem": ["stem.0"], "stage 1": ["stages.0.conv1", "stages.0.conv2"]}
    pulls = pd.DataFrame(
        {"label": [1.0] * 3, "own": [0.2] * 3, "total": [0.9] * 3}, [*stages["stem"], *stages["stage 1"]]
    )
    return {
        "merged_graph": viz.merged_graph(stages, ["stem.0"], blocks=["stages.0"]),
        "linked_block": viz.linked_block(),
        "returned_gradients": viz.returned_gradients({"all": pulls, "none": pulls}, stages),
        "expert_weights": viz.expert_weights({"stem": kind([[0.2, 0.8]] * 3)}, NAMES),
    }


def draw_maps(kind) -> dict:
    pictures, masks = (
        kind(RANDOM.random((2, 8, 8, 3)).tolist()),
        kind((RANDOM.random((2, 8, 8)) > 0.5).tolist()),
    )
    maps = kind(RANDOM.random((2, 4, 4)).tolist())
    roles = {"teacher": "teacher", "edges": "baseline"}
    return {
        "map_rows": viz.map_rows(pictures, {"KD": maps, "none": maps}, masks=masks, titles=["cat", "dog"]),
        "map_overlays": viz.map_overlays(
            pictures, {"KD": maps}, smooth={"KD": maps}, masks=masks, titles=["cat", "dog"], scale="range"
        ),
        "shift_maps": viz.shift_maps(
            {"a": maps, "b": maps}, label="shift", images=pictures, titles=NAMES[:2]
        ),
        "diversity_steps": viz.diversity_steps(maps, maps, maps, own=maps, images=pictures),
        "score_strips": viz.score_strips(
            {"teacher": kind([0.5, 0.7, 0.4]), "edges": kind([0.1, 0.2, 0.3])},
            roles,
            x_label="share on the object",
            chance=0.2,
        ),
    }


def draw_depths(kind) -> dict:
    stairs = pd.DataFrame(
        [[1.5, 2.0, 3e-4], [0.5, 0.0, 12.0]],
        index=["full/label", "depth8/label"],
        columns=pd.MultiIndex.from_tuples([("stage 1", 1), ("stage 1", 2), ("stage 2", 1)]),
    )
    return {
        "accuracy_against_costs": viz.accuracy_against_costs(
            {"sub-nets": {8: 60.0, 20: 80.0}, "alone": {8: kind([50.0, 54.0]), 20: kind([81.0, 83.0])}},
            {"MACs": {8: 12.5, 20: 40.8}, "ms": {8: 1.0, 20: 3.0}},
            {"sub-nets": "student", "alone": "baseline"},
        ),
        "ledger_staircase": viz.ledger_staircase(stairs),
        "depth_at_work": viz.depth_at_work(
            kind(RANDOM.random((8, 8, 3)).tolist()),
            kind(RANDOM.random((4, 4)).tolist()),
            kind([0.5, 0.3, 0.2]),
            NAMES,
            {"MACs": (12.5e6, 40.8e6)},
            truth=1,
        ),
    }


def draw_tables(kind) -> dict:
    square = [[1.0, 0.2, -0.3], [0.2, 1.0, 0.1], [-0.3, 0.1, 1.0]]
    weights = [[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]
    bounds = {"low": 0.06, "high": 0.79}
    return {
        "layer_heatmaps": viz.layer_heatmaps(
            {"a": pd.DataFrame(square), "b": pd.DataFrame(square)}, low=0, high=1, label="CKA"
        ),
        "class_matrices": viz.class_matrices(
            {"a": kind(square), "b": kind(square)}, NAMES, label="correlation", families=[0, 1, 0]
        ),
        "association_by_class_over_steps": viz.association_by_class_over_steps(
            kind([0, 1]), kind([[weights] * 3] * 2), **bounds
        ),
        "association_by_class": viz.association_by_class(kind([weights] * 3), NAMES, **bounds),
        "association_of_picture": viz.association_of_picture(
            kind(RANDOM.random((8, 8, 3)).tolist()), kind(weights), kind(weights), **bounds
        ),
        "association_over_steps": viz.association_over_steps(
            kind([0, 1]), {"published": kind([[weights] * 3] * 2)}, **bounds
        ),
        "loss_planes": viz.loss_planes(
            {"one": kind(square)},
            kind([0.0, 1.0, 2.0]),
            kind([0.0, 1.0, 2.0]),
            {"A": (1.0, 0.5)},
            {"A": "student"},
            x_label="x",
            y_label="y",
        ),
        "diversity_steps": viz.diversity_steps(
            kind([square]), kind([square]), kind([square]), own=kind([square])
        ),
        "paired_effects": viz.paired_effects({"a": kind([1.0, -1.0, 3.0])}, x_label="points"),
        "entropy_over_steps": viz.entropy_over_steps(
            kind([0, 1]), {"published": kind([[0.9, 0.8], [0.7, 0.95]])}, lowest=0.6
        ),
    }


@pytest.mark.parametrize("kind", [np.asarray, list])
def test_every_figure_returns_axes(kind):
    figures = draw_all(kind)
    functions = {name for name in viz.__all__ if name.islower()} - {"show", "leave", "drawn_numbers"}
    assert set(figures) == functions
    for axes in figures.values():
        grid = np.atleast_1d(axes)
        assert all(isinstance(one, Axes) for one in grid.flat)
        assert len({one.figure for one in grid.flat}) == 1


def test_all_text_is_at_least_9_points():
    for name, axes in draw_all().items():
        figure = np.atleast_1d(axes).flat[0].figure
        figure.canvas.draw()
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
        assert texts
        for text in texts:
            assert text.get_fontsize() >= 9, (name, text.get_text())


def test_arrays_are_not_changed():
    matrix = np.eye(3)
    viz.similarity_maps({"a": matrix}, NAMES)
    assert (matrix == np.eye(3)).all()


def test_picture_grid_leaves_unused_places_empty():
    grid = viz.picture_grid([np.zeros((4, 4))] * 5, list("abcde"), columns=3)
    assert grid.shape == (2, 3)
    assert [len(axes.images) for axes in grid.flat] == [1, 1, 1, 1, 1, 0]
    assert [axes.get_title() for axes in grid.flat] == ["a", "b", "c", "d", "e", ""]
    assert not any(axes.axison for axes in grid.flat)


def test_soft_label_bars_show_the_numbers_and_the_truth():
    (axes,) = viz.soft_label_bars({"T = 1": [0.7, 0.2, 0.1]}, NAMES, truth=1)
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.2, 0.1]
    assert [bar.get_alpha() for bar in axes.patches] == [0.55, 1.0, 0.55]
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["normal", "bold", "normal"]
    assert (axes.get_xscale(), axes.get_xlim()) == ("linear", (0, 1))
    low, high = axes.get_ylim()
    assert low > high  # the first class is on top


def test_soft_label_bars_on_a_logarithmic_scale_beside_their_picture():
    picture = RANDOM.random((4, 4, 3))
    bars = {"teacher": [0.9, 0.1, 1e-4], "student": [0.5, 0.5, 0.0]}
    roles = {"teacher": "teacher", "student": "student"}
    grid = viz.soft_label_bars(bars, NAMES, roles=roles, picture=picture, lowest=1e-3)
    assert [axes.get_title() for axes in grid] == ["teacher", "student"]
    for axes, role in zip(grid, roles.values(), strict=True):
        assert (axes.get_xscale(), axes.get_xlim()) == ("log", (1e-3, 1))
        assert {to_hex(bar.get_facecolor()) for bar in axes.patches} == {viz.COLOURS[role].lower()}
    left = grid[0].figure.axes[0]
    assert left not in grid
    np.testing.assert_array_equal(left.images[0].get_array(), picture)


def test_curves_have_the_colours_of_their_roles():
    axes = viz.curves(
        {"KD": ([1, 2], [3, 4]), "labels only": ([1, 2], [1, 2])},
        {"KD": "student", "labels only": "baseline"},
        x_label="epoch",
        y_label="accuracy (%)",
    )
    assert [line.get_color() for line in axes.lines] == [
        viz.COLOURS["student"],
        viz.COLOURS["baseline"],
    ]
    assert len({line.get_marker() for line in axes.lines}) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["KD", "labels only"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "accuracy (%)")
    assert axes.get_yscale() == "linear"


def test_roles_have_a_colour_and_a_marker_each():
    assert viz.COLOURS.keys() == viz.MARKERS.keys()
    assert len(set(viz.COLOURS.values())) == len(set(viz.MARKERS.values())) == len(viz.COLOURS)


def test_paired_runs_draw_a_line_a_seed_and_a_mean_a_method():
    axes = viz.paired_runs(
        {"labels only": [60.0, 62.0, 61.0], "KD": [64.0, 65.0, 63.0]},
        {"labels only": "baseline", "KD": "student"},
    )
    assert [line.get_ydata().tolist() for line in axes.lines] == [[60, 64], [62, 65], [61, 63]]
    assert [text.get_text() for text in axes.texts] == ["61.0", "64.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["labels only", "KD"]


def test_similarity_maps_share_one_scale_and_leave_the_diagonal_blank():
    small, large = np.full((3, 3), 0.1), np.full((3, 3), 0.7)
    np.fill_diagonal(large, 1.0)
    grid = viz.similarity_maps({"a": small, "b": large}, NAMES, bar_label="probability")
    for axes in grid:
        (mesh,) = axes.collections
        assert mesh.get_clim() == (0.1, 0.7)
        assert np.ma.getmaskarray(mesh.get_array()).reshape(3, 3).diagonal().all()
    assert grid[0].figure.axes[-1].get_ylabel() == "probability"


def test_gradient_ledger_says_0_where_nothing_flows():
    axes = viz.gradient_ledger(LEDGER)
    words = {
        (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text()
        for text in axes.texts
        if text.get_text()
    }
    assert words == {(0, 0): "0.5", (0, 1): "0", (1, 0): "1.2e+02", (1, 1): "0.0002"}
    (mesh,) = axes.collections
    shown = np.ma.masked_invalid(mesh.get_array()).reshape(2, 2)
    np.testing.assert_allclose(shown.compressed(), [0.5, 123.0, 2e-4])
    assert isinstance(mesh.norm, LogNorm)
    assert axes.figure.axes[1].get_ylabel() == "gradient norm"
    assert np.ma.getmaskarray(shown).tolist() == [[False, True], [False, False]]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(LEDGER.index)


def test_gradient_ledger_gives_nearly_equal_norms_nearly_equal_colours():
    near = pd.DataFrame({"student": [1.3, 1.1], "teacher": [0.0, 1.4]}, ["student/label", "teacher/label"])
    (mesh,) = viz.gradient_ledger(near).collections
    assert mesh.get_clim() == (1, 10)
    (mesh,) = viz.gradient_ledger(LEDGER).collections
    assert mesh.get_clim() == pytest.approx((1e-4, 1e3))


def shown(monkeypatch, caption, **options):
    """What ``viz.show`` displays: its forms by kind, and their metadata."""
    displayed = []
    monkeypatch.setattr("IPython.display.display", lambda *what, **how: displayed.append((what, how)))
    axes = viz.curves({"a": ([0], [0])}, {"a": "teacher"}, x_label="x", y_label="y")
    viz.show(axes.figure, caption, **options)
    assert not plt.get_fignums()
    (((forms,), how),) = displayed
    assert how.pop("raw")
    return forms, how["metadata"]


def test_show_gives_the_caption_as_alternative_text(monkeypatch):
    forms, metadata = shown(monkeypatch, 'The loss "falls" from 3 to <1.')
    assert forms["text/plain"] == 'Figure: The loss "falls" from 3 to <1.'
    assert metadata["image/png"]["alt"] == 'The loss "falls" from 3 to <1.'
    page = ElementTree.fromstring(forms["text/html"])
    image, words = page
    assert (page.tag, image.tag, words.tag) == ("figure", "img", "figcaption")
    assert image.get("alt") == 'The loss "falls" from 3 to <1.'
    assert words.text == forms["text/plain"]
    assert image.get("src") == f"data:image/png;base64,{forms['image/png']}"


@pytest.mark.parametrize("dpi", [100, 200])
def test_a_fine_figure_has_the_same_size_on_the_page(monkeypatch, dpi):
    forms, metadata = shown(monkeypatch, "A curve.", dpi=dpi)
    picture = Image.open(BytesIO(b64decode(forms["image/png"])))
    assert picture.width == pytest.approx(metadata["image/png"]["width"] * dpi / 100, abs=2)
    assert (picture.mode == "P") == (dpi > 100)


def test_a_palette_keeps_the_colours_of_a_figure(monkeypatch):
    """A sequential map with its colour bar, pixel by pixel against the same figure in all colours."""
    axes = style.styled(style.panels)(3, 3)[0, 0]
    axes.figure.colorbar(axes.imshow(np.linspace(0, 1, 64).reshape(8, 8), cmap="cividis"))
    whole = BytesIO()
    axes.figure.savefig(whole, dpi=200)
    displayed = []
    monkeypatch.setattr("IPython.display.display", lambda forms, **_: displayed.append(forms))
    viz.show(axes.figure, "A map.")
    few = np.asarray(Image.open(BytesIO(b64decode(displayed[0]["image/png"]))).convert("RGB"), float)
    difference = np.abs(few - np.asarray(Image.open(whole).convert("RGB"), float))
    assert 0 < difference.mean() < 1


def test_drawing_leaves_matplotlib_settings_alone():
    before = dict(plt.rcParams)
    draw_all()
    assert dict(plt.rcParams) == before


def test_the_figures_need_no_torch():
    program = "import sys, kdnb.viz; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class TestWhoTeachesWhom:
    """The arrows, as pairs of words and of where they begin and end."""

    def drawn(self, moved, depends):
        axes = viz.who_teaches_whom(moved, depends)
        return [text.get_text() for text in axes.texts], len(axes.patches)

    def test_a_frozen_teacher_stands_above_and_has_one_arrow(self):
        moved = LEDGER.assign(teacher=0.0)
        words, arrows = self.drawn(moved, INFLUENCES)
        assert arrows == 1
        assert sorted(words) == ["labels", "soft", "student", "teacher"]

    def test_who_gets_the_gradient_does_not_teach(self):
        words, arrows = self.drawn(LEDGER, INFLUENCES)  # the soft term moves the teacher, too
        assert arrows == 0
        assert sorted(words) == ["labels", "student", "teacher"]

    def test_terms_on_one_way_share_an_arrow(self):
        moved = pd.DataFrame(
            [[0.0, 1.0], [0.0, 2.0], [3.0, 0.0]], index=["b/mutual", "b/self", "a/mutual"], columns=["a", "b"]
        )
        depends = (moved >= 0).assign(labels=False)
        words, arrows = self.drawn(moved, depends)
        assert arrows == 2
        assert sorted(words) == ["a", "b", "mutual", "mutual\nself"]
