import pytest
import torch

from kdnb.functional import kd_loss, label_loss
from kdnb.method import ledger
from kdnb.methods import DML, FFSD
from kdnb.methods.families.online import LEADERS
from kdnb.networks import Network, build
from kdnb.testing import contract


def network(number: int) -> Network:
    return build("resnet8", classes=10, seed=number)


@pytest.mark.parametrize("leader", LEADERS)
def test_contract(batch, leader):
    assert len(contract(DML(network, leader=leader, students=3), *batch)) == 10


def test_terms_by_the_formula(batch):
    images, labels = batch
    method = DML(network, students=3, temperature=2.0).eval()
    logits = [student(images).detach() for student in method.students]
    terms = method.losses(images, labels, 0.0)
    torch.testing.assert_close(terms["student2/label"], label_loss(logits[1], labels))
    mutual = (kd_loss(logits[1], logits[0], 2.0) + kd_loss(logits[1], logits[2], 2.0)) / 2
    torch.testing.assert_close(terms["student2/mutual"], mutual)
    assert len(terms) == 6


def test_students_that_agree_teach_each_other_nothing(batch):
    method = DML(lambda number: build("resnet8", classes=10, seed=0)).eval()
    terms = method.losses(*batch, 0.0)
    assert terms["student1/mutual"].item() == pytest.approx(0, abs=1e-6)


def test_nobody_moves_to_be_followed(batch):
    table = ledger(DML(network), *batch)
    assert table.loc["student1/mutual", "students.1"] == 0
    assert table.loc["student2/mutual", "students.0"] == 0
    assert table.loc["student1/mutual", "students.0"] > 0


def test_the_leader_is_ffsds(batch):
    """FFSD without diversity and self-distillation is DML with a leader, at one temperature."""
    methods = []
    for make in (DML, FFSD):
        options = {} if make is DML else {"diversity": "none", "self_distillation": "none"}
        torch.manual_seed(0)
        methods.append(make(network, leader="fusion", temperature=2.0, **options).train())
    ours, theirs = (method.losses(*batch, 3.0) for method in methods)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_first_network_is_kept(batch):
    method = DML(network).eval()
    assert torch.equal(method.export()(batch[0]), build("resnet8", classes=10, seed=0).eval()(batch[0]))
    assert list(method.outputs(batch[0])) == ["student1", "student2", "ensemble"]
