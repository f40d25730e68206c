"""The answer key of notebook 06 is the library."""

import pytest
import torch
from torch import nn

from kdnb.exercises.ecd import EXERCISES
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
