"""Figures of two joined networks: what is drawn where."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from kdnb import viz
from kdnb.viz.links import GRADIENT

STAGES = {"stem": ["stem.0"], "stage 1": ["stages.0.0.conv1", "stages.0.0.conv2", "stages.0.0.shortcut.0"]}
KEY = "gradient of the teacher's loss down"
PATHS = [path for paths in STAGES.values() for path in paths]


pytestmark = pytest.mark.usefixtures("no_windows")


def words(axes: plt.Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def all_arrows(axes: plt.Axes) -> list[tuple[tuple, tuple, str]]:
    """(from, to, colour) of every arrow."""
    drawn = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
    return [(text.xyann, text.xy, to_hex(text.arrow_patch.get_edgecolor()).upper()) for text in drawn]


def arrows(axes: plt.Axes) -> list[tuple[tuple, tuple, str]]:
    """The arrows between the two networks: they are long."""
    return [(start, end, colour) for start, end, colour in all_arrows(axes) if abs(start[1] - end[1]) > 1.2]


def place(axes: plt.Axes, word: str, count: int = 0) -> np.ndarray:
    """Where the box with this word is."""
    return np.array([text.get_position() for text in axes.texts if text.get_text() == word][count])


def polylines(axes: plt.Axes) -> list[np.ndarray]:
    return [line.get_xydata() for line in axes.lines if len(line.get_xydata()) > 1]


def test_a_link_leads_up_and_its_gradient_down():
    axes = viz.merged_graph(STAGES, PATHS[:2])
    found = arrows(axes)
    assert len(found) == 4
    for start, end, colour in found:
        assert (end[1] > start[1]) == (colour != GRADIENT)
    assert {"student", "teacher", "removed by export()", "stem", "stage 1"} <= set(words(axes))
    assert words(axes).count("shortcut") == 2


def test_a_shortcut_goes_round_its_block_and_is_added_behind_it():
    """In series with the convolutions, as it was once drawn, there would be no sum."""
    axes = viz.merged_graph(STAGES, PATHS, blocks=["stages.0.0"])
    for row in (0, 1):  # the student, then the teacher
        conv1, conv2, shortcut = (place(axes, word, row) for word in ("conv1", "conv2", "shortcut"))
        plus = place(axes, "+", row)
        assert conv1[0] < shortcut[0] < conv2[0] < plus[0]
        assert conv1[1] == conv2[1] == plus[1] != shortcut[1]
        ends = [(np.array(start), np.array(end)) for start, end, _ in all_arrows(axes)]
        into = [(start, end) for start, end in ends if np.abs(end - plus).sum() < 0.2]
        assert len(into) == 2
        assert [start[1] == plus[1] for start, _ in into].count(True) == 1  # the main path
        (from_shortcut,) = [start for start, _ in into if start[1] != plus[1]]
        assert from_shortcut.tolist() == [plus[0], shortcut[1]]
        (fork,) = [line[0] for line in polylines(axes) if line[0][1] == plus[1] and line[0][0] < conv1[0]]
        assert fork[0] < conv1[0]
    assert len(arrows(axes)) == 2 * len(PATHS)


def test_a_shortcut_without_a_convolution_is_a_line():
    stages = {"stage 1": ["0.conv1", "0.conv2"], "stage 2": ["1.conv1", "1.conv2"]}
    axes = viz.merged_graph(stages, [], blocks=["0", "1"])
    assert words(axes).count("+") == 4
    assert "shortcut" not in words(axes)
    assert len(polylines(axes)) == 4


def test_one_linked_block_is_drawn_layer_by_layer():
    axes = viz.linked_block()
    found = sorted(
        (x, text.get_text().replace("\n", " "))
        for text in axes.texts
        for x, y in [text.get_position()]
        if y == 0 and text.get_text() and text.get_text() not in ("student", KEY)
    )
    assert [word for _, word in found] == ["conv", "batch norm", "ReLU", "conv", "batch norm", "+", "ReLU"]
    assert words(axes).count("+") == 5  # three links into the teacher, and the sum of each block
    up = [(start, end) for start, end, colour in arrows(axes) if colour == "#000000"]
    down = [(start, end) for start, end, colour in arrows(axes) if colour == GRADIENT]
    assert len(up) == len(down) == 3
    assert all(end[1] > start[1] for start, end in up)
    assert all(end[1] < start[1] for start, end in down)


def test_detached_links_bring_nothing_back_and_missing_ones_are_not_drawn():
    axes = viz.merged_graph(STAGES, PATHS, detached=True)
    assert {colour for *_, colour in arrows(axes)} == {"#000000"}
    assert "no gradient comes down" in words(axes)
    assert not arrows(viz.merged_graph(STAGES, []))


def test_many_convolutions_are_drawn_without_their_names():
    axes = viz.merged_graph({"network": [f"stages.{i}.conv1" for i in range(20)]}, [])
    assert "conv1" not in words(axes)
    assert len(axes.patches) == 2 * 20 + 1
    assert axes.figure.get_size_inches()[0] == 13


def test_pulls_are_in_units_of_the_labels():
    table = pd.DataFrame({"label": [2.0] * 4, "own": [0.0, 1, 2, 3], "total": [2.0, 2, 4, 4]}, PATHS)
    grid = viz.returned_gradients({"all": table, "twice": 2 * table}, STAGES, top=2.5)
    assert [axes.get_title() for axes in grid] == ["all", "twice"]
    for axes in grid:
        total, labels, _ = axes.lines
        assert total.get_ydata().tolist() == [1, 1, 2, 2]
        assert labels.get_ydata() == [1, 1]
        assert [bar.get_height() for bar in axes.patches] == [0, 0.5, 1, 1.5]
        assert np.diff(total.get_xdata())[0] > np.diff(total.get_xdata())[1]  # a gap between stages
        assert axes.get_ylim() == (0, 2.5)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["stem", "stage 1"]


def test_expert_weights_have_a_panel_a_convolution_on_one_scale():
    means = {"first": np.full((2, 3), 1 / 3), "last": np.array([[0.0, 0.4, 0.6], [1, 0, 0]])}
    grid = viz.expert_weights(means, ["cat", "dog"], high=0.8)
    assert [axes.get_title() for axes in grid[:2]] == ["first", "last"]
    assert {axes.collections[0].get_clim() for axes in grid[:2]} == {(0, 0.8)}
    assert [text.get_text() for text in grid[1].texts] == [".00", ".40", ".60", "1.00", ".00", ".00"]
    assert [label.get_text() for label in grid[0].get_yticklabels()] == ["cat", "dog"]
