import torch

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
