import pytest
import torch
import torch.nn.functional as F

from kdnb.errors import InputError
from kdnb.methods import METHODS, LabelsOnly
from kdnb.networks import build
from kdnb.testing import contract


def test_labels_only_keeps_the_contract(batch):
    contract(LabelsOnly(build("resnet8", classes=10)), *batch)


def test_the_loss_is_the_cross_entropy(batch):
    images, labels = batch
    method = LabelsOnly(build("resnet8", classes=10)).eval()
    expected = torch.nn.functional.cross_entropy(method.student(images), labels)
    torch.testing.assert_close(method.losses(images, labels, 0.0), {"student/label": expected})


def test_every_method_says_in_one_line_what_it_is():
    assert all(method.__doc__.splitlines()[0].endswith(".") for method in METHODS.values())


def test_label_smoothing_gives_a_share_to_all_classes(batch):
    images, labels = batch
    method = LabelsOnly(build("resnet8", classes=10, seed=0), smoothing=0.2)
    logits = method.student(images)
    target = 0.8 * F.one_hot(labels, 10) + 0.02
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(method.losses(images, labels, 0.0)["student/label"], expected)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_a_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(InputError, match=r"smoothing must be in \[0, 1\)"):
        LabelsOnly(build("resnet8", classes=10), smoothing=smoothing)
