import pytest
import torch
from reference import wave

from kdnb.errors import InputError
from kdnb.method import ledger
from kdnb.methods import FitNet
from kdnb.methods.fitnet import Regressor, hint_loss
from kdnb.networks import build
from kdnb.testing import contract


def make(**options) -> FitNet:
    return FitNet(build("resnet8", classes=10), build("resnet14", classes=10, seed=1), **options)


MAPS = {
    "s1": wave((8, 4, 8, 8), 0.11, 0.2),
    "s2": wave((8, 6, 4, 4), 0.13, 0.3),
    "t1": wave((8, 5, 8, 8), 0.19, 0.7),
    "t2": wave((8, 8, 4, 4), 0.23, 1.1),
}


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [("s1", "t1", 1.00979584783), ("s1", "t2", 0.994954340188), ("s2", "t1", 0.899750917481)],
)
def test_closed_form(student, teacher, expected):
    """methods/README.md, Golden values: equal size, half, double."""
    student, teacher = MAPS[student], MAPS[teacher]
    regressor = Regressor(student.shape[1], teacher.shape[1], teacher.shape[2] / student.shape[2]).double()
    with torch.no_grad():
        regressor[0].weight.copy_(wave(regressor[0].weight.shape, 0.37, 0, 0.2))
        regressor[0].bias.copy_(wave(regressor[0].bias.shape, 0.37, 0, 0.05))
    assert hint_loss(regressor(student), teacher).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_it_keeps_the_contract_unless_a_stage_is_left_out(batch, stage):
    assert len(contract(make(stage=stage, soft_weight=1.0), *batch)) == 10


@pytest.mark.parametrize(("student", "teacher"), [("resnet8", "vgg8"), ("mobilenetv2", "resnet8")])
def test_sizes_are_matched(batch, student, teacher):
    """Half, double, and a quarter with no special layer."""
    for stage in (1, 3):
        contract(FitNet(build(student, classes=10), build(teacher, classes=10), stage=stage), *batch)


def test_the_hint_teaches_nothing_behind_its_stage(batch):
    parts = ("student.stages.1", "student.stages.2", "student.head")
    norms = ledger(make(stage=2), *batch, parts=parts).loc["student/hint"]
    assert norms["student.stages.1"] > 0
    assert norms["regressor"] > 0
    assert norms["student.stages.2"] == norms["student.head"] == norms["teacher"] == 0


def test_a_stage_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="from 1 to 3"):
        make(stage=4)
    with pytest.raises(InputError, match="from 1 to 3"):
        make(stage=0)
