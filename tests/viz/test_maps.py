"""Figures of maps: one scale a row, outlines, honest colours."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from kdnb import viz

pytestmark = pytest.mark.usefixtures("no_windows")

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
MASKS = np.zeros((3, 8, 8), dtype=bool)
MASKS[:, 2:6, 3:7] = True
SMALL, LARGE = RANDOM.random((3, 4, 4)), 1 + 9 * RANDOM.random((3, 8, 8))


def scales(grid: np.ndarray) -> list:
    return [[axes.images[-1].get_clim() for axes in row] for row in grid]


def test_map_rows_are_pictures_then_maps_with_one_scale_a_row():
    grid = viz.map_rows(PICTURES, {"teacher": SMALL, "student": LARGE}, titles=["cat", "dog", "owl"])
    assert grid.shape == (3, 3)
    assert [axes.get_title() for axes in grid[0]] == ["picture", "teacher", "student"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["cat", "dog", "owl"]
    for row in range(3):
        assert (grid[row, 0].images[0].get_array() == PICTURES[row]).all()
        assert (grid[row, 1].images[0].get_array() == SMALL[row]).all()
        assert scales(grid[row : row + 1, 1:])[0] == [(SMALL[row].min(), LARGE[row].max())] * 2


def test_maps_of_every_resolution_cover_the_picture():
    grid = viz.map_rows(PICTURES, {"coarse": SMALL, "fine": LARGE})
    covered = {tuple(axes.images[0].get_extent()) for axes in grid.flat}
    assert covered == {(-0.5, 7.5, 7.5, -0.5)}
    assert {axes.images[0].get_cmap().name for axes in grid[:, 1:].flat} == {"cividis"}
    assert {axes.images[0].get_interpolation() for axes in grid.flat} == {"nearest"}


def test_masks_are_outlined_in_every_panel_at_their_place():
    grid = viz.map_rows(PICTURES, {"coarse": SMALL}, masks=MASKS)
    for axes in grid.flat:
        (outline,) = axes.collections
        points = np.concatenate([path.vertices for path in outline.get_paths()])
        assert points.min(0).tolist() == [2.5, 1.5]
        assert points.max(0).tolist() == [6.5, 5.5]
    assert not any(axes.collections for axes in viz.map_rows(PICTURES, {"coarse": SMALL}).flat)


def test_titles_must_name_every_row():
    with pytest.raises(ValueError, match="zip"):
        viz.map_rows(PICTURES, {"coarse": SMALL}, titles=["cat"])


@pytest.mark.parametrize("pictures", [PICTURES, PICTURES / 255])
def test_map_overlays_show_each_map_alone_and_over_a_grey_picture(pictures):
    grid = viz.map_overlays(
        pictures, {"teacher": SMALL, "student": LARGE}, smooth={"teacher": 2 * SMALL, "student": LARGE}
    )
    assert grid.shape == (3, 5)
    assert [axes.get_title() for axes in grid[0]] == ["picture", "teacher", "overlay", "student", "overlay"]
    for row, axes in enumerate(grid):
        limits = SMALL[row].min(), LARGE[row].max()
        for exact, overlay, alone, smooth in ((1, 2, SMALL, 2 * SMALL), (3, 4, LARGE, LARGE)):
            assert (axes[exact].images[0].get_array() == alone[row]).all()
            assert axes[exact].images[0].get_interpolation() == "nearest"
            grey, colours = axes[overlay].images
            assert grey.get_cmap().name == "gray"
            assert grey.get_clim() == pytest.approx(
                (-127.5, 255) if pictures.dtype == np.uint8 else (-0.5, 1)
            )
            assert (colours.get_array() == smooth[row]).all()
            assert 0 < colours.get_alpha() < 1
            assert colours.get_interpolation() == "bilinear"
            assert colours.get_clim() == axes[exact].images[0].get_clim() == limits


def test_map_overlays_smooth_the_maps_themselves_if_no_others_are_given():
    grid = viz.map_overlays(PICTURES, {"teacher": SMALL})
    assert all((axes[2].images[1].get_array() == SMALL[row]).all() for row, axes in enumerate(grid))


@pytest.mark.parametrize("draw", [viz.map_rows, viz.map_overlays])
def test_the_colour_bar_says_the_scale_of_the_maps(draw):
    for scale in ("", "each map by its own range"):
        figure = draw(PICTURES, {"teacher": SMALL}, scale=scale)[0, 0].figure
        assert figure.axes[-1].get_ylabel() == scale


def test_shift_maps_share_one_scale_symmetric_about_0():
    shift = {"with": SMALL - 0.5, "without": LARGE - 20}
    grid = viz.shift_maps(shift, label="change of attention", images=PICTURES)
    limit = np.abs(LARGE - 20).max()
    assert {clim for row in scales(grid[:, 1:]) for clim in row} == {(-limit, limit)}
    assert {axes.images[0].get_cmap().name for axes in grid[:, 1:].flat} == {"RdBu_r"}
    assert grid[0, 0].figure.axes[-1].get_ylabel() == "change of attention"
    assert viz.shift_maps(shift, label="change").shape == (3, 2)


def test_diversity_steps_show_a_neighbour_its_task_area_the_target_and_what_changes():
    target = SMALL[:, ::-1]
    grid = viz.diversity_steps(
        SMALL, SMALL > 0.3, target, own=SMALL / 2, images=PICTURES, titles=["a", "b", "c"]
    )
    names = ["picture", "neighbour", "task area", "asked for", "difference", "student"]
    assert [axes.get_title() for axes in grid[0]] == names
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["a", "b", "c"]
    limit = np.abs(target - SMALL).max()
    for row, (_, neighbour, task, asked, change, student) in enumerate(grid):
        np.testing.assert_array_equal(neighbour.images[0].get_array(), SMALL[row])
        np.testing.assert_array_equal(task.images[0].get_array(), SMALL[row] > 0.3)
        np.testing.assert_array_equal(asked.images[0].get_array(), target[row])
        np.testing.assert_array_equal(change.images[0].get_array(), target[row] - SMALL[row])
        np.testing.assert_array_equal(student.images[0].get_array(), SMALL[row] / 2)
        assert {one.images[0].get_clim() for one in (neighbour, asked, student)} == {(0, SMALL[row].max())}
        assert change.images[0].get_clim() == (-limit, limit)
        assert change.images[0].get_cmap().name == "RdBu_r"
    assert grid[0, 0].figure.axes[-1].get_ylabel() == "difference"


def test_diversity_steps_write_values_into_small_maps():
    one = np.array([[[0.0, 0.25], [0.5, 1.0]]])
    ((neighbour, task, asked, change),) = viz.diversity_steps(one, one > 0.3, one[:, ::-1], words=True)
    words = [[text.get_text() for text in axes.texts] for axes in (neighbour, task, asked, change)]
    assert words[0] == [".00", ".25", ".50", "1.00"]
    assert words[1] == []
    assert words[2] == [".50", "1.00", ".00", ".25"]
    assert words[3] == [".50", ".75", "-.50", "-.75"]
    colours = [text.get_color() for text in neighbour.texts]
    assert colours == ["white", "white", "white", "black"]


def test_score_strips_show_every_image_the_mean_and_chance():
    scores = {"teacher": [0.2, 0.4, 0.9], "edges": [0.1, 0.3, 0.2, 0.2]}
    axes = viz.score_strips(scores, {"teacher": "teacher", "edges": "baseline"}, x_label="share", chance=0.25)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["teacher", "edges"]
    dots = [found for found in axes.collections if isinstance(found, PathCollection)]
    assert [found.get_offsets()[:, 0].tolist() for found in dots] == list(scores.values())
    for row, found in enumerate(dots):
        assert np.abs(found.get_offsets()[:, 1] - row).max() < 0.5
    words = [text.get_text() for text in axes.texts]
    assert words == ["0.50", "0.20", "chance", "mean"]
    means = [line for line in axes.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in means] == pytest.approx([0.5, 0.2])
    assert [to_hex(line.get_color()).upper() for line in means] == [
        viz.COLOURS["teacher"],
        viz.COLOURS["baseline"],
    ]
    assert [0.25, 0.25] in [list(line.get_xdata()) for line in axes.lines]
    assert axes.get_xlabel() == "share"
    low, high = axes.get_ylim()
    assert low > high  # the first name is on top


def test_score_strips_are_the_same_picture_every_time():
    """seaborn's own strips draw from NumPy's global random state."""
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    pictures = []
    for _ in range(2):
        axes = viz.score_strips({"a": SMALL.ravel()}, {"a": "student"}, x_label="share")
        axes.figure.canvas.draw()
        pictures.append(np.asarray(axes.figure.canvas.buffer_rgba()))
    assert (pictures[0] == pictures[1]).all()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_score_strips_take_scores_that_are_all_alike():
    axes = viz.score_strips(
        {"a": [0.5, 0.5, 0.5], "b": [1.0]}, {"a": "student", "b": "teacher"}, x_label="share"
    )
    assert [text.get_text() for text in axes.texts] == ["0.50", "1.00", "mean"]


def test_score_strips_without_chance():
    axes = viz.score_strips({"a": [0.1, 0.2]}, {"a": "student"}, x_label="share")
    assert [text.get_text() for text in axes.texts] == ["0.15", "mean"]


def test_a_page_of_maps_is_small():
    """Figures live in notebooks: 150 kB at most."""
    from io import BytesIO

    pictures = RANDOM.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)  # noise compresses worst
    maps = {name: RANDOM.random((4, 16, 16)) for name in ("a", "b", "c")}
    content = BytesIO()
    viz.map_rows(pictures, maps)[0, 0].figure.savefig(content, dpi=100)
    assert len(content.getvalue()) < 150_000
