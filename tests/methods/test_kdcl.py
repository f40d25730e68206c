"""KDCL: its four targets in closed form, views, the images held out, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from reference import wave
from torch.utils.data import DataLoader, TensorDataset

from kdnb.datasets import Augmentation, Batch, Batches
from kdnb.errors import InputError
from kdnb.functional import kd_loss
from kdnb.methods import KDCL
from kdnb.methods.kdcl import (
    TARGETS,
    best_logits,
    class_errors,
    general_weights,
    least_logits,
    linear_weights,
)
from kdnb.networks import build
from kdnb.testing import contract
from kdnb.train import train

LABELS = torch.arange(8)
LOGITS = torch.stack([wave((8, 10), 0.7, 0.1, 3), wave((8, 10), 0.9, 0.4, 3)])


def some_batches(count=24, augmentation: Augmentation | None = Augmentation(pad=1)) -> Batches:  # noqa: B008
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return Batches(images, torch.arange(count) % 10, 8, (0.5,) * 3, (0.25,) * 3, True, augmentation)


def make(held_out=None, **options) -> KDCL:
    return KDCL(
        lambda i: build("resnet8", classes=10, seed=i), held_out or some_batches(augmentation=None), **options
    )


def cross_entropy(logits):
    return F.cross_entropy(logits, LABELS, reduction="none")


def test_the_least_logits_in_closed_form():
    """Section Golden values of the fact sheet: both nets, T = 2."""
    own = [logits.clone().requires_grad_() for logits in LOGITS]
    target = least_logits(LOGITS, LABELS)
    loss = sum(kd_loss(logits, target, 2.0) for logits in own)
    assert loss.item() == pytest.approx(3.04421654367, rel=1e-9)
    gradients = torch.autograd.grad(loss, own)
    found = [gradient.abs().sum().item() for gradient in gradients]
    assert found == pytest.approx([1.100696255, 1.189512495], rel=1e-9)
    assert (cross_entropy(target) <= torch.stack([*map(cross_entropy, LOGITS)]).amin(0)).all()


def test_the_general_weights_in_closed_form():
    weights = general_weights(class_errors(LOGITS, LABELS))
    assert weights.tolist() == pytest.approx([0.5613635618, 0.4386364382], rel=1e-9)


def test_general_weights_have_the_least_squared_error_of_all_that_sum_to_1():
    errors = class_errors(torch.randn(3, 40, 10, dtype=torch.float64), torch.arange(40) % 10)
    weights = general_weights(errors)

    def squared(w):
        return torch.einsum("m,mnk->nk", w, errors).square().sum()

    assert weights.sum().item() == pytest.approx(1)
    for _ in range(20):
        shift = torch.randn(3, dtype=torch.float64)
        assert squared(weights) < squared(weights + 0.1 * (shift - shift.mean()))


def test_students_that_agree_weigh_the_same():
    errors = class_errors(LOGITS[:1].repeat(3, 1, 1), LABELS)
    assert general_weights(errors).tolist() == pytest.approx([1 / 3] * 3)


def test_the_naive_target_is_the_best_students():
    found = best_logits(LOGITS, LABELS)
    losses = torch.stack([*map(cross_entropy, LOGITS)])
    torch.testing.assert_close(cross_entropy(found), losses.amin(0))
    assert {tuple(row.tolist()) for row in found} <= {tuple(row.tolist()) for row in LOGITS.flatten(0, 1)}


@pytest.mark.parametrize("students", [2, 3, 6])
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_linear_weights_have_the_lowest_cross_entropy_of_the_simplex(students, scale):
    generator = torch.Generator().manual_seed(students)
    labels = torch.arange(30) % 10
    logits = torch.randn(students, 30, 10, generator=generator, dtype=torch.float64)
    logits += torch.linspace(0, 2, students)[:, None, None] * F.one_hot(labels, 10)
    logits *= scale
    weights = linear_weights(logits, labels)
    assert weights.sum().item() == pytest.approx(1)
    assert (weights >= 0).all()

    def loss(w):
        return F.cross_entropy(torch.einsum("m,mbk->bk", w, logits), labels).item()

    leaf = weights.clone().requires_grad_()
    F.cross_entropy(torch.einsum("m,mbk->bk", leaf, logits), labels).backward()
    # First-order condition on the simplex: equal slopes where a weight is above 0, larger elsewhere.
    least = leaf.grad.min()
    assert (weights * (leaf.grad - least)).sum().item() == pytest.approx(0, abs=1e-6 * scale)
    for corner in torch.eye(students, dtype=torch.float64):
        assert loss(weights) <= loss(corner) + 1e-9
        assert loss(weights) <= loss(0.9 * weights + 0.1 * corner) + 1e-9


def test_a_perfect_student_takes_all_the_weight():
    labels = torch.arange(10)
    logits = torch.stack([6.0 * F.one_hot(labels, 10), -3.0 * F.one_hot(labels, 10)]).double()
    assert linear_weights(logits, labels).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_it_keeps_the_contract(target, batch):
    contract(make(target=target), *batch)
    contract(make(target=target, students=3, separate_views=False), *batch)


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_gets_no_gradient_and_every_student_its_own(target, batch):
    method = make(target=target, separate_views=False)
    terms = method.losses(*batch, 0.0)
    for i, student in enumerate(method.students):
        gradients = torch.autograd.grad(
            terms["student1/soft"], list(student.parameters()), allow_unused=True, retain_graph=True
        )
        assert all(gradient is None for gradient in gradients) == (i == 1)


def test_every_student_sees_its_own_view(batch):
    method = make(target="naive").eval()
    images, labels = batch
    seen = method(Batch(images, labels, views=(images.flip(3),)), 0.0)
    expected = F.cross_entropy(method.students[1](images.flip(3)), labels)
    torch.testing.assert_close(seen["student2/label"], expected)
    assert not torch.equal(seen["student2/label"], method.losses(images, labels, 0.0)["student2/label"])


def test_weight_0_is_two_students_with_labels_alone(batch):
    terms = make(soft_weight=0.0, target="naive", separate_views=False).losses(*batch, 0.0)
    assert set(terms) == {"student1/label", "student2/label"}


def test_an_epoch_begins_with_the_weights_of_the_students_as_they_are():
    method = make()
    for _ in train(method, some_batches(), epochs=2, lr=0.05, device="cpu", precision="fp32"):
        pass
    used = method.weights.clone()
    method.begin_epoch(2)
    assert used.sum().item() == pytest.approx(1)
    assert not torch.equal(method.weights, used)
    logits = torch.stack([student.eval()(images) for images, _ in [held()] for student in method.students])
    expected = general_weights(class_errors(logits.detach(), held()[1]))
    torch.testing.assert_close(method.weights.double(), expected, rtol=1e-5, atol=1e-6)


def held():
    images, labels = zip(*some_batches(augmentation=None), strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("target", TARGETS)
def test_an_interrupted_training_goes_on_to_the_same_bits(target):
    options = {"epochs": 2, "lr": 0.02, "precision": "fp32", "device": "cpu"}
    whole, first, second = (make(target=target) for _ in range(3))
    for _ in train(whole, some_batches(), **options):
        pass
    state = copy.deepcopy(next(train(first, some_batches(), **options)).state())
    for _ in train(second, some_batches(), resume=state, **options):
        pass
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_loaders_that_cannot_give_views_are_refused():
    loader = DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8)), batch_size=4)
    with pytest.raises(InputError, match="view"):
        next(train(make(), loader, epochs=1, lr=0.1, device="cpu"))
    with pytest.raises(InputError, match="all views would be the same"):
        next(train(make(), some_batches(augmentation=None), epochs=1, lr=0.1, device="cpu"))


def test_a_loader_of_batches_with_views_trains():
    images, labels = torch.randn(2, 4, 3, 8, 8), torch.arange(4)
    loader = [Batch(images[0], labels, views=(images[1],))] * 2
    epoch = next(train(make(), loader, epochs=1, lr=0.1, device="cpu"))
    assert set(epoch.losses) == {f"student{i}/{term}" for i in (1, 2) for term in ("label", "soft")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "best"}, "Unknown target 'best'"),
        ({"students": 1}, "students must be 2 to 6"),
        ({"temperature": 0.0}, "temperature must be"),
        ({"soft_weight": -1.0}, "soft_weight must be"),
    ],
)
def test_mistakes_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_a_general_target_needs_images_held_out():
    with pytest.raises(InputError, match="give held_out"):
        KDCL(lambda i: build("resnet8", classes=10, seed=i))
