"""The answer key of notebook 06 is the library."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.exercises import lesson
from kdnb.exercises.ecd import EXERCISES
from kdnb.exercises.probes import AutogradUsed, without_autograd
from kdnb.functional import label_loss
from kdnb.methods import ECD
from kdnb.methods.ecd.links import watched
from kdnb.networks.dynamic import DynamicAdditiveConv


def reference(name: str):
    return EXERCISES[name].reference


def test_the_kernels_are_those_of_the_dynamic_convolution():
    torch.manual_seed(0)
    conv = DynamicAdditiveConv(nn.Conv2d(4, 6, 3, padding=1, bias=False), experts=3, temperature=2.0).double()
    x = torch.randn(5, 4, 8, 8, dtype=torch.float64)
    experts = conv.experts.view(3, *conv.weight.shape)
    kernels = reference("dynamic_kernels")(conv.weight, experts, conv.attention.layers(x.mean((2, 3))), 2.0)
    found = [
        nn.functional.conv2d(image[None], kernel, padding=1) for image, kernel in zip(x, kernels, strict=True)
    ]
    torch.testing.assert_close(torch.cat(found), conv(x))


def test_what_is_joined_and_what_returns_is_that_of_the_method():
    """A student of one layer, whose teacher is static: z_s = W x, z_t = V x + c z_s."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(4, 3, 1, bias=False), nn.Flatten()).double()
    method = ECD(student, experts=1, link_scale=0.5)
    with torch.no_grad():
        method.teacher[0].experts.zero_()
    images, labels = torch.randn(6, 4, 1, 1, dtype=torch.float64), torch.arange(6) % 3
    outputs = method.outputs(images)
    z_s, z_t = reference("joined")(student[0], method.teacher[0], images, images, 0.5)
    assert torch.equal(z_s.flatten(1), outputs["student"])
    torch.testing.assert_close(z_t.flatten(1), outputs["teacher"])
    found = reference("returned")(*outputs.values(), labels, images.flatten(1), 0.5)
    loss = label_loss(outputs["teacher"], labels)
    (expected,) = torch.autograd.grad(loss, [student[0].weight])
    torch.testing.assert_close(found, expected.flatten(1))


@pytest.mark.parametrize(("other", "cosine"), [(2.0, 1.0), (-0.5, -1.0)])
def test_agreement_is_about_direction_alone(other, cosine):
    maps = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert reference("agreement")(maps, other * maps) == pytest.approx(cosine)


def test_what_is_kept_is_what_the_library_watches():
    net, images = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)), torch.randn(2, 3, 5, 5)
    with watched(net, ["0"]) as seen:
        net(images)
    assert torch.equal(reference("kept")(net[0](images)), seen["0"].output)


def mixed_one_by_one(static: Tensor, experts: Tensor, scores: Tensor, T: float) -> Tensor:
    kernels = []
    for row in scores:
        weights = torch.exp(row / T) / torch.exp(row / T).sum()
        kernels.append(static + sum(w * expert for w, expert in zip(weights, experts, strict=True)))
    return torch.stack(kernels)


def mixed_by_broadcasting(static: Tensor, experts: Tensor, scores: Tensor, T: float) -> Tensor:
    weights = F.softmax(scores / T, dim=-1)[:, :, None, None, None, None]
    return static[None] + (weights * experts).sum(1)


def joined_with_keywords(student, teacher, h_s, h_t, c):
    z_s = student(input=h_s)
    return [z_s, torch.add(teacher(input=h_t), z_s, alpha=c)]


def returned_image_by_image(z_s, z_t, labels, x, c):
    found = torch.zeros(z_t.shape[1], x.shape[1], dtype=x.dtype)
    for logits, label, image in zip(z_t, labels, x, strict=True):
        error = logits.softmax(0)
        error[label] -= 1
        found += c * torch.outer(error, image) / len(x)
    return found


def returned_from_float32(z_s, z_t, labels, x, c):
    error = (z_t.softmax(1) - F.one_hot(labels, z_t.shape[1])).float()
    return c * torch.einsum("bk,bd->kd", error, x.float()) / len(x)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("dynamic_kernels", mixed_one_by_one),
        ("dynamic_kernels", mixed_by_broadcasting),
        ("joined", joined_with_keywords),
        ("returned", returned_image_by_image),
        ("returned", returned_from_float32),
        ("agreement", lambda a, b: F.cosine_similarity(a.flatten(), b.flatten(), dim=0)),
        ("agreement", lambda a, b: float((a * b).sum() / a.square().sum().sqrt() / b.square().sum().sqrt())),
        ("kept", lambda output: output + 0),
        ("kept", lambda output: torch.clone(output)),
    ],
)
def test_right_answers_in_other_styles_pass(name, right):
    assert lesson("06").check(name, right) is right


@pytest.mark.parametrize(
    ("name", "wrong", "hint"),
    [
        ("joined", lambda s, t, h_s, h_t, c: (s(h_s), c * s(h_s) + t(h_t)), "runs twice"),
        ("joined", lambda s, t, h_s, h_t, c: (h_s, h_t, c), "expected two maps"),
        ("dynamic_kernels", lambda V, E, s, T: mixed_by_broadcasting(V, E, s.data, T), "no gradient reaches"),
        ("kept", lambda output: output.data.clone(), "cuts the link"),
    ],
)
def test_wrong_answers_in_other_styles_get_the_hint(name, wrong, hint, capsys):
    lesson("06").check(name, wrong)
    assert hint in capsys.readouterr().out


def loss(z: Tensor) -> Tensor:
    return F.cross_entropy(z, torch.tensor([0, 1]))


def error_by_a_parameter(z: Tensor) -> Tensor:
    parameter = nn.Parameter(z)
    loss(parameter).backward()
    return parameter.grad


def error_by_a_layer(z: Tensor) -> Tensor:
    layer = nn.Linear(2, 2)
    return torch.autograd.grad(loss(layer(z)), layer.weight)[0]


def error_by_the_attribute(z: Tensor) -> Tensor:
    z.requires_grad = True
    with torch.enable_grad():
        return torch.autograd.grad(loss(z), z)[0]


@pytest.mark.parametrize(
    "differentiate",
    [
        error_by_a_parameter,
        error_by_a_layer,
        error_by_the_attribute,
        lambda z: torch.func.grad(loss)(z),
        lambda z: torch.autograd.functional.jacobian(loss, z),
    ],
)
def test_every_way_to_let_pytorch_differentiate_is_noticed(differentiate):
    with pytest.raises(AutogradUsed), without_autograd():
        differentiate(torch.randn(2, 2))


def test_other_errors_pass_and_gradients_are_allowed_again_afterwards():
    with pytest.raises(RuntimeError, match="shape"), without_autograd():
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert torch.ones(1, requires_grad=True).sum().requires_grad
