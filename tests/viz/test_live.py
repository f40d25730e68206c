"""The line that says how far a training is."""

import IPython.display
import pytest

from kdnb.viz import Progress


class Handle:
    """Keeps what a notebook would show in one place."""

    def __init__(self, content: dict) -> None:
        self.shown = [content]

    def update(self, content: dict, *, raw: bool) -> None:
        assert raw
        self.shown.append(content)


@pytest.fixture
def handles(monkeypatch):
    made = []

    def display(content: dict, *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        made.append(Handle(content))
        return made[-1]

    monkeypatch.setattr(IPython.display, "display", display)
    return made


def test_the_line_is_drawn_anew_in_one_place(handles):
    line = Progress(3)
    for epoch in (1, 2, 3):
        line.update(epoch, loss=1 / epoch)
    [handle] = handles
    assert [content["text/plain"] for content in handle.shown] == [
        "epoch 1 of 3, loss 1",
        "epoch 2 of 3, loss 0.5",
        "epoch 3 of 3, loss 0.333",
    ]
    assert '<progress value="2" max="3">' in handle.shown[1]["text/html"]


def test_every_training_has_a_line_of_its_own(handles):
    for _ in range(2):
        Progress(1).update(1)
    assert len(handles) == 2
