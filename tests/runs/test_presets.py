import pytest

from kdnb.errors import InputError
from kdnb.networks import NETWORKS
from kdnb.runs.presets import plan


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_presets_name_what_exists(preset):
    the = plan(preset, "shapes", 3)
    assert {the.student, the.teacher} <= set(NETWORKS)
    assert max(the.schedule(step / 100) for step in range(100)) == 1
    assert the.schedule(0.99) < 0.02
    assert str(the).startswith(f"{preset}: {the.student} learns from")
    assert str(the).endswith(f"seed 3; teacher {the.teacher}")


def test_labels_and_epochs_replace_the_presets():
    the = plan("quick", "shapes", 0, labels=50, epochs=3)
    assert (the.labels, the.epochs) == (50, 3)
    assert (plan("quick", "shapes", 0).labels, plan("paper", "shapes", 0).labels) == (500, 0)


def test_the_first_editions_data_keep_their_protocol():
    first, today = plan("quick", "shapes-v1", 0), plan("quick", "shapes", 0)
    assert (first.batch_size, first.lr, first.schedule_name) == (64, 0.2, "cosine")
    assert (today.batch_size, today.lr, today.schedule_name) == (16, 0.1, "warm-cosine")
    assert plan("paper", "shapes-v1", 0).epochs == 240


def test_mistakes_are_told():
    with pytest.raises(InputError, match=r"'quik'\. Did you mean 'quick'"):
        plan("quik", "shapes", 0)
    with pytest.raises(InputError, match=r"epochs must be 0 .* found -1"):
        plan("quick", "shapes", 0, epochs=-1)
