"""Counting is exact: closed forms of small steps."""

import pytest
import torch
from torch import nn

from kdnb.datasets import Batch
from kdnb.method import Method
from kdnb.methods import DML, KD, LabelsOnly, SemCKD
from kdnb.networks import build, cost
from kdnb.train.cost import step_memory, step_operations


class Square(Method):
    """Minimises the sum of the squares of a matrix product."""

    def __init__(self, *, frozen: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 3, dtype=torch.float64), requires_grad=not frozen)
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def losses(self, images, labels, epoch):
        return {"student/square": (self.scale * (images @ self.weight)).square().sum()}

    def outputs(self, images):
        return {"student": images @ self.weight}

    def export(self):
        return nn.Identity()


def test_a_step_counts_both_passes_and_the_teachers_one(batch):
    """A backward pass costs twice a forward one, but for the first layer's unneeded input gradient."""
    student, teacher = build("resnet8", classes=10), build("resnet14", classes=10)
    first = 2 * 3 * 9 * 16 * 16 * 16
    expected = 6 * cost(student, size=16).macs - first + 2 * cost(teacher, size=16).macs
    assert step_operations(KD(student, teacher), Batch(*batch)) == 8 * expected


def test_the_aligner_is_two_thirds_of_semckds_arithmetic():
    """methods/README.md, SemCKD, full size: 177.1 and 1092.1 million MACs thrice, 1083.0 once, an image."""
    method = SemCKD(build("resnet8x4", classes=100), build("resnet32x4", classes=100), 4)
    found = (
        step_operations(method, Batch(torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))) / 4 / 2
    )
    assert found / 1e6 == pytest.approx(3 * 177.1 + 3 * 1092.1 + 1083.0, rel=0.005)


def test_memory_is_weights_thrice_and_what_the_backward_pass_needs():
    images, labels = torch.ones(4, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    needed = images.numel() + 2 * 4 * 3  # the input, the product, and the scaled product
    assert step_memory(Square(), Batch(images, labels)) == 8 * (3 * (15 + 1) + needed)


def test_what_is_frozen_needs_neither_gradient_nor_momentum_nor_its_input():
    images, labels = torch.ones(4, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    assert step_memory(Square(frozen=True), Batch(images, labels)) == 8 * (15 + 3 * 1 + 2 * 4 * 3)


def test_a_tensor_that_is_needed_twice_is_held_once(batch):
    """Two equal students hold the images once, and all else twice; the mutual terms add logits."""
    net, other = build("resnet8", classes=10), build("resnet8", classes=10, seed=1)
    alone = step_memory(LabelsOnly(net), Batch(*batch))
    both = step_memory(DML(lambda number: [net, other][number - 1], students=2), Batch(*batch))
    images, logits = batch[0].nbytes, batch[0].element_size() * len(batch[0]) * 10
    assert 2 * alone - images < both < 2 * alone + 20 * logits


def test_counting_leaves_the_method_and_the_random_state_alone(batch):
    method = LabelsOnly(build("resnet8", classes=10))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = torch.get_rng_state()
    assert step_memory(method, Batch(*batch)) == step_memory(method, Batch(*batch))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(weight.grad is None for weight in method.parameters())
    assert torch.equal(torch.get_rng_state(), state)


class Convolution(Method):
    """Minimises the sum of what a convolution in groups makes of the images, scaled."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.net = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)

    def losses(self, images, labels, epoch):
        return {"student/sum": self.net(self.scale * images).sum()}

    def outputs(self, images):
        return {"student": self.net(images).mean((2, 3))}

    def export(self):
        return self.net


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_convolution_in_groups_costs_as_much_less_backward_as_forward(groups):
    images, labels = torch.ones(3, 8, 5, 5), torch.zeros(3, dtype=torch.int64)
    forward = 2 * 3 * 5 * 5 * 8 * (8 // groups) * 9
    assert step_operations(Convolution(groups), Batch(images, labels)) == 3 * forward
