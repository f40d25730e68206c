"""A figure as files: its picture, its words, and the numbers that it shows."""

from base64 import b64decode

import matplotlib.pyplot as plt
import numpy as np
import pytest

from kdnb import viz
from kdnb.files import FILES

pytestmark = pytest.mark.usefixtures("no_windows")


def test_numbers_of_every_kind_are_collected():
    _, (left, right) = plt.subplots(1, 2)
    left.plot([0, 1, 2], [5.0, 6.0, 7.0])
    left.scatter([1, 2], [3, 4])
    left.bar([0, 1], [2.0, 3.0], width=0.5)
    left.hlines([1, 2], xmin=[0.0, 1.0], xmax=[3.0, 4.0])
    masked = np.ma.masked_equal([[1.0, -1.0], [2.0, 3.0]], -1)
    right.imshow(np.full((2, 2, 3), 7, np.uint8))
    right.pcolormesh(masked)
    numbers = viz.drawn_numbers(left.figure)
    assert set(numbers) == {
        "panel 0/line 0",
        "panel 0/points 0",
        "panel 0/bars 0",
        "panel 0/segments 0",
        "panel 1/picture 0",
        "panel 1/cells 0",
    }
    assert numbers["panel 0/line 0"].tolist() == [[0, 5], [1, 6], [2, 7]]
    assert numbers["panel 0/points 0"].tolist() == [[1, 3], [2, 4]]
    assert numbers["panel 0/bars 0"].tolist() == [[-0.25, 0, 0.5, 2], [0.75, 0, 0.5, 3]]
    assert numbers["panel 0/segments 0"].tolist() == [[0, 1, 3, 1], [1, 2, 4, 2]]
    assert numbers["panel 1/picture 0"].dtype == np.uint8
    np.testing.assert_array_equal(numbers["panel 1/cells 0"], [[1, np.nan], [2, 3]])


def test_under_kdnb_run_every_figure_is_left_as_three_files(tmp_path, monkeypatch):
    displayed = []
    monkeypatch.setattr("IPython.display.display", lambda forms, **_: displayed.append(forms))
    monkeypatch.setenv(FILES, str(tmp_path / "some_files"))
    for caption in ("The first curve rises.", "The second does, too."):
        axes = viz.curves({"a": ([0, 1], [2, 3])}, {"a": "teacher"}, x_label="x", y_label="y")
        viz.show(axes.figure, caption)
    names = [f"figure-0{number}.{kind}" for number in (1, 2) for kind in ("npz", "png", "txt")]
    assert sorted(path.name for path in (tmp_path / "some_files").iterdir()) == names
    assert (tmp_path / "some_files/figure-02.txt").read_text() == "The second does, too.\n"
    assert (tmp_path / "some_files/figure-02.png").read_bytes() == b64decode(displayed[1]["image/png"])
    with np.load(tmp_path / "some_files/figure-01.npz") as numbers:
        assert numbers["panel 0/line 0"].tolist() == [[0, 2], [1, 3]]


def test_a_reader_of_a_notebook_gets_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    monkeypatch.delenv(FILES, raising=False)
    monkeypatch.chdir(tmp_path)
    axes = viz.curves({"a": ([0], [0])}, {"a": "teacher"}, x_label="x", y_label="y")
    viz.show(axes.figure, "A point.")
    assert list(tmp_path.iterdir()) == []
