"""Figures of tables: layers, classes, associations."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from kdnb import viz

pytestmark = pytest.mark.usefixtures("no_windows")

TABLE = pd.DataFrame([[1.0, 0.25], [-0.001, np.nan]], index=["s1", "s2"], columns=["t1", "t2"])
WEIGHTS = np.array([[0.5, 0.3, 0.2], [0.2, 0.25, 0.55]])  # (S, M)


def words(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def shown(axes) -> np.ndarray:
    return np.ma.filled(axes.collections[0].get_array().astype(float), np.nan)


def test_layer_heatmaps_have_the_range_they_are_given():
    grid = viz.layer_heatmaps({"a": TABLE, "b": TABLE / 2}, low=0, high=1, label="CKA")
    assert [axes.get_title() for axes in grid] == ["a", "b"]
    assert {axes.collections[0].get_clim() for axes in grid} == {(0, 1)}
    assert {axes.collections[0].get_cmap().name for axes in grid} == {"cividis"}
    assert grid[0].figure.axes[-1].get_ylabel() == "CKA"
    assert [label.get_text() for label in grid[0].get_yticklabels()] == ["s1", "s2"]
    assert [label.get_text() for label in grid[0].get_xticklabels()] == ["t1", "t2"]


def test_layer_heatmaps_say_the_values_without_a_negative_zero_and_leave_out_what_has_none():
    (axes,) = viz.layer_heatmaps({"a": TABLE}, low=0, high=1, label="CKA")
    assert words(axes) == ["1.00", "0.25", "0.00"]


@pytest.mark.parametrize(("low", "high", "limit"), [(-1, 1, 1), (-0.5, 1, 1), (-1, 0.5, 1)])
def test_signed_tables_are_symmetric_about_0(low, high, limit):
    (axes,) = viz.layer_heatmaps({"a": TABLE}, low=low, high=high, label="cosine")
    assert axes.collections[0].get_clim() == (-limit, limit)
    assert axes.collections[0].get_cmap().name == "RdBu_r"


def test_names_of_a_tables_axes_label_it():
    table = TABLE.rename_axis(index="student", columns="teacher")
    (axes,) = viz.layer_heatmaps({"a": table}, low=0, high=1, label="CKA")
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("student", "teacher")


def test_class_matrices_bring_families_together_and_frame_them():
    matrix = np.arange(16.0).reshape(4, 4)
    matrix = (matrix + matrix.T) / 20
    families = [0, 1, 0, 1]
    (axes,) = viz.class_matrices({"a": matrix}, ["cat", "car", "dog", "bus"], label="r", families=families)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "car", "bus"]
    order = [0, 2, 1, 3]
    expected = matrix[np.ix_(order, order)]
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(shown(axes).reshape(4, 4), expected)
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(*frame.get_xy(), frame.get_width(), frame.get_height()) for frame in frames] == [
        (0, 0, 2, 2),
        (2, 2, 2, 2),
    ]


def test_class_matrices_share_one_scale_symmetric_about_0():
    small, large = np.full((3, 3), 0.1), np.full((3, 3), -0.7)
    grid = viz.class_matrices({"a": small, "b": large}, ["cat", "dog", "owl"], label="correlation")
    assert {axes.collections[0].get_clim() for axes in grid} == {(-0.7, 0.7)}
    assert not any(axes.patches for axes in grid)
    assert grid[0].figure.axes[-1].get_ylabel() == "correlation"


def test_association_by_class_has_a_panel_a_student_layer():
    means = np.stack([WEIGHTS, WEIGHTS[::-1], WEIGHTS, WEIGHTS])  # (K, S, M)
    names = ["cat", "dog", "owl", "fox"]
    grid = viz.association_by_class(means, names, low=0.06, high=0.8)
    assert [axes.get_title() for axes in grid] == ["student 1", "student 2"]
    for layer, axes in enumerate(grid):
        np.testing.assert_allclose(shown(axes).reshape(4, 3), means[:, layer])
        assert axes.collections[0].get_clim() == (0.06, 0.8)
    assert words(grid[0])[:6] == [".50", ".30", ".20", ".20", ".25", ".55"]
    assert [label.get_text() for label in grid[0].get_yticklabels()] == names
    assert [label.get_text() for label in grid[1].get_xticklabels()] == ["1", "2", "3"]


def test_association_of_picture_shows_the_picture_and_both_tables():
    picture = np.linspace(0, 1, 4 * 4 * 3).reshape(4, 4, 3)
    shown_picture, own, mean = viz.association_of_picture(picture, WEIGHTS, WEIGHTS[::-1], low=0.06, high=0.8)
    np.testing.assert_allclose(shown_picture.images[0].get_array(), picture)
    np.testing.assert_allclose(shown(own).reshape(2, 3), WEIGHTS)
    np.testing.assert_allclose(shown(mean).reshape(2, 3), WEIGHTS[::-1])
    assert own.collections[0].get_clim() == mean.collections[0].get_clim() == (0.06, 0.8)


STEPS = [0, 1, 64]
BOUNDS = {"low": 0.06, "high": 0.8}


def ticks_from_0(axes) -> bool:
    return axes.get_xscale() == "symlog" and axes.get_xlim()[0] == 0 and axes.get_xlabel() == "training step"


def test_association_over_steps_has_a_row_a_run_a_panel_a_student_layer_and_a_line_a_teacher_layer():
    images = np.stack([WEIGHTS, WEIGHTS[:, ::-1]])  # (N, S, M)
    weights = np.stack([images, images, images[:1].repeat(2, 0)])  # (E, N, S, M)
    grid = viz.association_over_steps(STEPS, {"published": weights, "ours": weights[::-1]}, **BOUNDS)
    assert grid.shape == (2, 2)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["published\nweight", "ours\nweight"]
    for row, shown in zip(grid, (weights, weights[::-1]), strict=True):
        for layer, axes in enumerate(row):
            lines = [line for line in axes.lines if len(line.get_xdata()) == len(STEPS)]
            for teacher, line in enumerate(lines):
                np.testing.assert_allclose(line.get_ydata(), shown[:, :, layer, teacher].mean(1))
            assert len({line.get_marker() for line in lines}) == len(lines) == len(axes.collections) == 3
            assert [line.get_ydata()[0] for line in axes.lines[-3:]] == pytest.approx([0.06, 1 / 3, 0.8])
    ends = grid[0, 0].collections[0].get_paths()[0].vertices
    assert ends[ends[:, 0] == 0][:, 1].min() == pytest.approx(0.23)  # a tenth of the way from 0.2 to 0.5
    assert ends[ends[:, 0] == 64][:, 1].min() == pytest.approx(0.5)  # both images alike: no band
    assert all(ticks_from_0(axes) for axes in grid[-1])
    legend = [text.get_text() for text in grid[0, 0].figure.legends[0].get_texts()]
    assert legend == ["teacher 1", "teacher 2", "teacher 3"]
    assert words(grid[0, -1]) == ["lowest", "uniform", "highest"]


def test_association_by_class_over_steps_has_a_panel_a_pair_and_a_line_a_class():
    means = np.random.default_rng(0).uniform(0.1, 0.7, (3, 4, 2, 3))  # (E, K, S, M)
    grid = viz.association_by_class_over_steps(STEPS, means, **BOUNDS)
    assert grid.shape == (2, 3)
    for (student, teacher), axes in np.ndenumerate(grid):
        lines = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == len(STEPS)]
        np.testing.assert_allclose(np.transpose(lines), means[:, :, student, teacher])
    assert [axes.get_title() for axes in grid[0]] == ["teacher 1", "teacher 2", "teacher 3"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["student 1\nweight", "student 2\nweight"]
    assert all(ticks_from_0(axes) for axes in grid[-1])


def test_entropy_over_steps_has_a_panel_a_run_and_marks_both_ends():
    entropies = np.array([[0.95, 0.9], [0.8, 0.85], [0.61, 0.62]])  # (E, S)
    grid = viz.entropy_over_steps(STEPS, {"published": entropies, "ours": entropies[::-1]}, lowest=0.606)
    assert [axes.get_title() for axes in grid] == ["published", "ours"]
    for axes, shown in zip(grid, (entropies, entropies[::-1]), strict=True):
        *lines, uniform, lowest = axes.lines
        np.testing.assert_allclose(np.transpose([line.get_ydata() for line in lines]), shown)
        assert len({line.get_linestyle() for line in lines}) == 2
        assert (uniform.get_ydata()[0], lowest.get_ydata()[0]) == (1.0, 0.606)
        assert axes.get_ylim()[0] < 0.606
        assert axes.get_ylim()[1] > 1
        assert ticks_from_0(axes)
    legend = [text.get_text() for text in grid[0].figure.legends[0].get_texts()]
    assert legend == ["student 1", "student 2"]
    assert words(grid[-1]) == ["uniform", "lowest"]


def two_points_on(losses, **options):
    points, roles = {"A": (1.0, 2.0), "B": (3.0, 0.5)}, {"A": "student", "B": "teacher"}
    return viz.loss_planes(losses, range(5), range(4), points, roles, x_label="x", y_label="y", **options)


def test_loss_planes_draw_every_loss_and_mark_every_point_on_it():
    bowl = np.add.outer(np.arange(4.0) ** 2, np.arange(5.0) ** 2)
    grid = two_points_on({"bowl": bowl, "flat": bowl[:1] + 0 * bowl})
    assert [axes.get_title() for axes in grid] == ["bowl", "flat"]
    for axes in grid:
        marks = [m.get_offsets().tolist()[0] for m in axes.collections if len(m.get_offsets()) == 1]
        assert [mark for mark in marks if mark != [0.0, 0.0]] == [[1.0, 2.0], [3.0, 0.5]]
        assert {"A", "B"} <= {text.get_text() for text in axes.texts}


def test_loss_planes_share_one_scale_and_show_valleys_and_pulls():
    low, high = np.ones((4, 5)), np.full((4, 5), 16.0)
    grid = two_points_on(
        {"low": low, "high": high},
        valleys={"high": [(1, 0), (1, 3)]},
        pulls={"high": {"A": (-10.0, 0.0), "B": (0, 0)}},
    )
    bar = grid[0].figure.axes[-1]
    assert bar.get_ylabel() == "loss"
    assert bar.get_ylim() == (0, 16)
    assert [len(axes.lines) for axes in grid] == [0, 1]
    assert grid[1].lines[0].get_xydata().tolist() == [[1, 0], [1, 3]]
    arrows = [text for axes in grid for text in axes.texts if text.arrow_patch is not None]
    assert [(arrow.xyann, tuple(arrow.xy)) for arrow in arrows] == [((1.0, 2.0), (0.4, 2.0))]


def test_paired_effects_show_each_interval_and_fill_what_is_settled():
    effects = {"better": (2.0, 1.0, 3.0), "open": (0.5, -1.0, 2.0), "worse": (-2.0, -3.0, -1.0)}
    axes = viz.paired_effects(effects, x_label="points")
    assert [label.get_text() for label in axes.get_yticklabels()] == list(effects)
    intervals = [
        line for line in axes.lines if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert [list(line.get_xdata()) for line in intervals] == [[1, 3], [-1, 2], [-3, -1]]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [2.0, 0.5, -2.0]
    assert [line.get_markerfacecolor() == "white" for line in dots] == [False, True, False]
    assert words(axes) == ["+2.0", "+0.5", "-2.0"]
    top, bottom = axes.transData.transform([(0, 0), (0, 2)])[:, 1]
    assert top > bottom


def test_effect_panels_are_paired_effects_side_by_side_on_one_scale():
    effects = {
        "stage 1": {"KD": (2.0, 1.0, 3.0), "AT": (0.5, -1.0, 2.0)},
        "stage 2": {"KD": (-0.2, -0.3, -0.1), "AT": (0.0, -1.0, 1.0)},
    }
    grid = viz.effect_panels(effects, x_label="points")
    assert [axes.get_title() for axes in grid] == ["stage 1", "stage 2"]
    assert [label.get_text() for label in grid[0].get_yticklabels()] == ["KD", "AT"]
    assert grid[0].get_xlim() == grid[1].get_xlim()
    assert [words(axes) for axes in grid] == [["+2.0", "+0.5"], ["-0.2", "+0.0"]]
    for axes, own in zip(grid, effects.values(), strict=True):
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [line.get_xdata()[0] for line in dots] == [mean for mean, _, _ in own.values()]
        assert [line.get_markerfacecolor() == "white" for line in dots] == [False, True]
    assert grid[0].figure.get_supxlabel() == "points"
