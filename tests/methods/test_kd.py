import copy

import pytest
import torch
import torchvision
from torch import nn

from kdnb.errors import InputError
from kdnb.functional import kd_loss, label_loss
from kdnb.methods import KD, LabelsOnly
from kdnb.methods.kd import Scrambled
from kdnb.networks import build
from kdnb.testing import contract


def make_kd(**options) -> KD:
    return KD(build("resnet8", classes=10, seed=0), build("resnet14", classes=10, seed=1), **options)


@pytest.mark.parametrize("options", [{}, {"soft_weight": 0.0, "label_weight": 1.0}, {"scrambled": True}])
def test_kd_keeps_the_contract(batch, options):
    assert len(contract(make_kd(**options), *batch)) == 10


def test_a_weight_of_0_leaves_the_soft_term_out(batch):
    assert list(make_kd(soft_weight=0.0).losses(*batch, 0.0)) == ["student/label"]
    assert list(make_kd().losses(*batch, 0.0)) == ["student/label", "student/soft"]


def test_kd_takes_models_we_did_not_write(batch):
    teacher = torchvision.models.resnet18(weights=None, num_classes=10)
    student = torchvision.models.mobilenet_v2(weights=None, num_classes=10, dropout=0.0)
    contract(KD(student, teacher), *batch)


def test_terms_are_the_weighted_losses(batch):
    method = make_kd(temperature=3.0, label_weight=0.3, soft_weight=2.0).eval()
    images, labels = batch
    terms = method.losses(images, labels, 0.0)
    student, teacher = method.student(images), method.teacher(images)
    torch.testing.assert_close(terms["student/label"], 0.3 * label_loss(student, labels))
    torch.testing.assert_close(terms["student/soft"], 2.0 * kd_loss(student, teacher, 3.0))


def test_a_student_equal_to_its_teacher_has_no_soft_loss(batch):
    teacher = build("resnet8", classes=10)
    method = KD(copy.deepcopy(teacher), teacher).eval()
    assert method.losses(*batch, 0.0)["student/soft"].item() == pytest.approx(0, abs=1e-6)


def test_another_teacher_gives_another_gradient(batch):
    gradients = []
    for seed in (1, 2):
        teacher = build("resnet14", classes=10, seed=seed)
        method = KD(build("resnet8", classes=10, seed=0), teacher, label_weight=0.0)
        sum(method.losses(*batch, 0.0).values()).backward()
        gradients.append(method.student.head.weight.grad)
    assert not torch.allclose(*gradients)


def test_without_the_soft_term_the_step_is_the_baselines_bit_for_bit(batch):
    stepped = []
    weights = {"label_weight": 1.0, "soft_weight": 0.0}
    for make in (LabelsOnly, lambda net: KD(net, build("resnet14", classes=10), **weights)):
        method = make(build("resnet8", classes=10, seed=0))
        (optimizer,) = method.optimizers(0.1)
        sum(method.losses(*batch, 0.0).values()).backward()
        optimizer.step()
        stepped.append(method.student.state_dict())
    assert all(torch.equal(value, stepped[1][name]) for name, value in stepped[0].items())


def test_permuting_the_batch_changes_nothing(batch):
    images, labels = batch
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    method = make_kd().double().eval()
    here, there = (
        method.losses(images.double(), labels, 0.0),
        method.losses(images[order].double(), labels[order], 0.0),
    )
    for name in here:
        torch.testing.assert_close(here[name], there[name])


@pytest.mark.parametrize("temperature", [0.0, -2.0, float("nan")])
def test_bad_temperatures_are_refused_at_once(temperature):
    with pytest.raises(InputError, match="temperature must be"):
        make_kd(temperature=temperature)


@pytest.mark.parametrize("name", ["label_weight", "soft_weight"])
def test_negative_weights_are_refused(name):
    with pytest.raises(InputError, match=f"{name} must be .* found -1"):
        make_kd(**{name: -1})


def test_networks_of_different_classes_are_refused():
    with pytest.raises(InputError, match="student has 10 classes and the teacher 12"):
        KD(build("resnet8", classes=10), build("resnet8", classes=12))


class TestScrambled:
    """A control: targets as soft as the teacher's that do not tell which classes are alike."""

    def test_the_largest_stays_and_the_values_are_kept(self):
        logits = torch.randn(64, 10)
        torch.manual_seed(0)
        mixed = Scrambled(nn.Identity())(logits)
        assert torch.equal(mixed.argmax(1), logits.argmax(1))
        assert torch.equal(mixed.sort(1).values, logits.sort(1).values)
        assert not torch.equal(mixed, logits)

    def test_every_place_is_as_likely(self):
        logits = torch.arange(4.0).repeat(30_000, 1)
        torch.manual_seed(0)
        mixed = Scrambled(nn.Identity())(logits)
        assert (mixed[:, 3] == 3).all()
        for place in range(3):
            shares = mixed[:, place].long().bincount(minlength=3) / len(mixed)
            torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.015, rtol=0)

    def test_the_soft_term_is_that_of_the_scrambled_targets(self, batch):
        method = make_kd(scrambled=True)
        torch.manual_seed(3)
        found = method.losses(*batch, 0.0)
        torch.manual_seed(3)
        with torch.no_grad():
            targets = method.teacher(batch[0])
        assert torch.equal(targets.sort(1).values, method.teacher.network(batch[0]).sort(1).values)
        expected = kd_loss(method.student(batch[0]), targets, 4.0)
        torch.testing.assert_close(found["student/soft"], 0.9 * expected)
