"""Numbers side by side, and who hands what to whom."""

import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgba
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from kdnb import viz

pytestmark = pytest.mark.usefixtures("no_windows")

NAMES = ["cat", "dog", "owl"]


def test_dots_by_row_show_every_number_and_say_it():
    table = pd.DataFrame({"control": [63.2, 8.0], "SRRL": [73.14, 7420.0]}, ["own head", "untrained head"])
    roles = {"control": "baseline", "SRRL": "student"}
    axes = viz.dots_by_row(table, roles, x_label="right (%)", marks={"chance": 8.3})
    dots = [dots for dots in axes.collections if dots.get_label() in table]
    assert [d.get_offsets().tolist() for d in dots] == [[[63.2, 0], [8, 1]], [[73.14, 0], [7420, 1]]]
    assert [to_rgba(viz.COLOURS[roles[name]]) for name in table] == [
        tuple(d.get_facecolor()[0]) for d in dots
    ]
    assert [text.get_text() for text in axes.texts] == ["63.2  73.1", "8  7,420", "chance"]
    assert [line.get_xdata()[0] for line in axes.lines] == [8.3]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(table.index)
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == list(table)
    assert axes.get_xscale() == "linear"


def test_dots_by_row_label_a_log_scale_in_plain_numbers():
    table = pd.DataFrame({"KD": [0.3, 6.0]}, ["read", "not read"])
    axes = viz.dots_by_row(table, {"KD": "student"}, x_label="error", log=True)
    axes.figure.canvas.draw()
    assert axes.get_xscale() == "log"
    assert {"0.3", "1", "3"} <= {label.get_text() for label in axes.get_xticklabels()}


def test_a_flow_diagram_has_a_box_a_part_and_dashes_what_is_frozen():
    boxes = {"picture": (0, 0), "student": (1, 1), "teacher": (1, 0)}
    arrows = [("picture", "student"), ("picture", "teacher")]
    roles = {"student": "student", "teacher": "teacher"}
    axes = viz.flow_diagram(boxes, arrows, roles, frozen=["teacher"])
    drawn = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert [text.get_text() for text in axes.texts] == list(boxes)
    assert [patch.get_linestyle() for patch in drawn] == ["-", "-", "--"]
    assert [to_hex(patch.get_edgecolor()).upper() for patch in drawn] == [
        "#999999",
        viz.COLOURS["student"],
        viz.COLOURS["teacher"],
    ]
    assert sum(isinstance(patch, FancyArrowPatch) for patch in axes.patches) == 2


def test_the_flow_of_srrl_leads_both_vectors_to_both_losses():
    axes = viz.srrl_flow()
    places = {tuple(text.get_position()): text.get_text().replace("\n", " ") for text in axes.texts}
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    ends = {tuple(places[tuple(end)] for end in arrow._posA_posB) for arrow in arrows}
    links = {"student's trunk": "connector, then average", "teacher's trunk": "average"}
    for trunk, vector in links.items():
        assert {("picture", trunk), (trunk, vector)} <= ends
        assert {(vector, "feature matching"), (vector, "teacher's head")} <= ends
    assert {("student's trunk", "student's own head"), ("student's own head", "label loss")} <= ends
    assert ("teacher's head", "softmax regression") in ends
    assert len(ends) == 11
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    dashed = {
        text.get_text().replace("\n", " ")
        for text, box in zip(axes.texts, boxes, strict=True)
        if box.get_linestyle() == "--"
    }
    assert dashed == {"teacher's trunk", "average", "teacher's head"}
