import pytest

from kdnb.errors import InputError
from kdnb.networks import NETWORKS
from kdnb.runs.presets import plan


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_presets_name_what_exists(preset):
    the = plan(preset, "shapes", 3)
    assert {the.student, the.teacher} <= set(NETWORKS)
    assert the.schedule(0.0) == 1
    assert the.schedule(0.99) < 0.02
    assert str(the).startswith(f"{preset}: {the.student} learns from")
    assert str(the).endswith(f"seed 3; teacher {the.teacher}")


def test_labels_and_epochs_replace_the_presets():
    the = plan("quick", "shapes", 0, labels=50, epochs=3)
    assert (the.labels, the.epochs) == (50, 3)
    assert (plan("quick", "shapes", 0).labels, plan("paper", "shapes", 0).labels) == (500, 0)


def test_mistakes_are_told():
    with pytest.raises(InputError, match=r"'quik'\. Did you mean 'quick'"):
        plan("quik", "shapes", 0)
    with pytest.raises(InputError, match=r"epochs must be 0 .* found -1"):
        plan("quick", "shapes", 0, epochs=-1)
