"""Figures of two joined networks: what is drawn where."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from kdnb import viz
from kdnb.viz.links import GRADIENT

STAGES = {"stem": ["stem.0"], "stage 1": ["stages.0.0.conv1", "stages.0.0.conv2", "stages.0.0.shortcut.0"]}
PATHS = [path for paths in STAGES.values() for path in paths]


pytestmark = pytest.mark.usefixtures("no_windows")


def words(axes: plt.Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def arrows(axes: plt.Axes) -> list[tuple[tuple, tuple, str]]:
    """(from, to, colour) of the arrows between the two rows."""
    drawn = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
    ends = [(text.xyann, text.xy, to_hex(text.arrow_patch.get_edgecolor()).upper()) for text in drawn]
    return [(start, end, colour) for start, end, colour in ends if start[1] != end[1]]


def test_a_link_leads_up_and_its_gradient_down():
    axes = viz.merged_graph(STAGES, PATHS[:2])
    found = arrows(axes)
    assert len(found) == 4
    for start, end, colour in found:
        assert (end[1] > start[1]) == (colour != GRADIENT)
    assert {"student", "teacher", "removed by export()", "stem", "stage 1"} <= set(words(axes))
    assert words(axes).count("shortcut") == 2


def test_detached_links_bring_nothing_back_and_missing_ones_are_not_drawn():
    axes = viz.merged_graph(STAGES, PATHS, detached=True)
    assert {colour for *_, colour in arrows(axes)} == {"#000000"}
    assert "no gradient comes down" in words(axes)
    assert not arrows(viz.merged_graph(STAGES, []))


def test_many_convolutions_are_drawn_without_their_names():
    axes = viz.merged_graph({"network": [f"stages.{i}.conv1" for i in range(20)]}, [])
    assert "conv1" not in words(axes)
    assert len(axes.patches) == 2 * 20 + 1


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
