"""Figures of networks that run at several depths."""

import numpy as np
import pandas as pd
import pytest

from kdnb import viz

pytestmark = pytest.mark.usefixtures("no_windows")

MACS = {8: 12.5, 14: 26.7, 20: 40.8}
STAIRS = pd.DataFrame(
    [[1.5, 2.0, 3e-4, 0.5], [0.5, 0.0, 12.0, 0.0], [0.25, 0.0, 1.0, 0.0]],
    index=["full/label", "depth8/label", "depth8/soft"],
    columns=pd.MultiIndex.from_tuples([("stage 1", 1), ("stage 1", 2), ("stage 2", 1), ("stage 2", 2)]),
)


def test_lines_go_through_the_means_at_their_costs():
    accuracies = {"sub-nets": {20: [80.0, 84.0], 8: [60.0, 61.0]}, "cut": {20: 83.0, 14: 40.0, 8: 9.0}}
    roles = {"sub-nets": "student", "cut": "baseline"}
    grid = viz.accuracy_against_costs(accuracies, {"MACs": MACS, "ms": {8: 1, 14: 2, 20: 3}}, roles)
    assert len(grid) == 2
    one, cut = grid[0].lines[:2]
    assert one.get_xydata().tolist() == [[12.5, 60.5], [40.8, 82.0]]
    assert cut.get_xydata().tolist() == [[12.5, 9.0], [26.7, 40.0], [40.8, 83.0]]
    assert one.get_color() == viz.COLOURS["student"]
    assert one.get_linestyle() != cut.get_linestyle()
    assert grid[1].lines[1].get_xdata().tolist() == [1, 2, 3]
    dots = np.concatenate([np.asarray(c.get_offsets()) for c in grid[0].collections])
    assert sorted(map(tuple, dots)) == [(12.5, 60), (12.5, 61), (40.8, 80), (40.8, 84)]
    assert [axes.get_xlabel() for axes in grid] == ["MACs", "ms"]
    assert grid[0].get_ylim()[0] == grid[0].get_xlim()[0] == 0


def test_depths_stand_above_the_points():
    (axes,) = viz.accuracy_against_costs({"a": {8: 1.0, 20: 2.0}}, {"MACs": MACS}, {"a": "student"})
    (above,) = axes.child_axes
    assert above.get_xticks().tolist() == [12.5, 40.8]
    assert [label.get_text() for label in above.get_xticklabels()] == ["8", "20"]


def test_the_staircase_says_every_number_and_leaves_zeros_white():
    axes = viz.ledger_staircase(STAIRS)
    cells = [text.get_text() for text in axes.texts][:12]
    assert cells == ["1.5", "2", ".0003", ".5", ".5", "0", "12", "0", ".25", "0", "1", "0"]
    shown = np.concatenate([np.ma.filled(image.get_array(), np.nan) for image in axes.images], axis=1)
    assert (np.isnan(shown) == (STAIRS.to_numpy() == 0)).all()
    assert {image.get_clim() for image in axes.images} == {(-4.0, 2.0)}


def test_stages_and_nets_are_set_apart():
    axes = viz.ledger_staircase(STAIRS)
    ticks = axes.get_xticks()
    assert (np.diff(ticks) > 1).tolist() == [False, True, False]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "1", "2"]
    assert [text.get_text() for text in axes.texts][12:] == ["stage 1", "stage 2"]
    assert [line.get_ydata()[0] for line in axes.lines] == [0.5]  # one line, between the two nets


def test_a_depth_at_work_shows_its_answer_and_its_share_of_the_cost():
    costs = {"parameters": (78_000, 312_000), "MACs": (12.5e6, 50e6), "ms": (9.04, 7.5)}
    grid = viz.depth_at_work(
        np.zeros((8, 8, 3)), np.eye(4), [0.7, 0.2, 0.1], ["cat", "dog", "owl"], costs, truth=2
    )
    picture, attention, answer, cost = grid
    assert attention.images[0].get_extent() == picture.images[0].get_extent()
    assert [bar.get_width() for bar in answer.patches] == [0.7, 0.2, 0.1]
    assert [bar.get_alpha() for bar in answer.patches] == [0.55, 0.55, 1.0]
    assert [bar.get_width() for bar in cost.patches] == pytest.approx([0.25, 0.25, 1.205], abs=1e-3)
    assert [text.get_text().strip() for text in cost.texts] == ["78.0 k", "12.5 M", "9.0"]
    assert [label.get_text() for label in cost.get_yticklabels()] == list(costs)
