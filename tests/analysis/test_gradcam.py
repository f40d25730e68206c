"""Grad-CAM against ten lines by hand, and every known fault of the package behind it."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.analysis import grad_cam, normalised
from kdnb.errors import InputError
from kdnb.method import frozen
from kdnb.networks import build


def pictures(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    """A resnet8 with statistics and a head of its own, so that no mode or class is like another."""
    net = build("resnet8", classes=5, seed=1)
    with torch.no_grad():
        net(pictures(16, seed=1))
    return net.train()


class Small(nn.Module):
    """conv -> BN -> an in-place ReLU -> conv -> an in-place sum -> pooled -> logits."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.again = nn.ReLU(inplace=inplace), nn.Conv2d(6, 6, 3, 2, padding=1)
        self.head, self.inplace = nn.Linear(6, 5), inplace

    def forward(self, images: Tensor) -> Tensor:
        x = self.again(self.relu(self.bn(self.conv(images))))
        x = x.sub_(0.5).relu_() if self.inplace else (x - 0.5).relu()
        return self.head(x.mean((2, 3)))


def small(inplace: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small(inplace)


def by_hand(maps: Tensor, logits: Tensor, classes: list[int], size: int) -> Tensor:
    """Selvaraju et al., eq. 1 and 2, then bilinearly to the image, then from 0 to 1."""
    total = sum(row[k] for row, k in zip(logits, classes, strict=True))
    (gradient,) = torch.autograd.grad(total, maps)
    weights = gradient.mean((2, 3), keepdim=True)  # eq. 1
    cam = F.relu((weights * maps).sum(1, keepdim=True))  # eq. 2
    cam = F.interpolate(cam, (size, size), mode="bilinear")[:, 0].detach()
    low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
    return (cam - low) / (high - low)


def state(net: nn.Module) -> list:
    hooks = [(m._forward_hooks, m._forward_pre_hooks, m._backward_hooks) for m in net.modules()]
    return [
        [module.training for module in net.modules()],
        [weight.requires_grad for weight in net.parameters()],
        [tensor.clone() for tensor in net.state_dict().values()],
        [len(hook) for group in hooks for hook in group],
    ]


def same(a: list, b: list) -> bool:
    return (a[0], a[1], a[3]) == (b[0], b[1], b[3]) and all(map(torch.equal, a[2], b[2]))


@pytest.mark.parametrize("classes", [[0, 3, 1], None])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_map_by_hand(stage, classes):
    net = network().eval()
    features = net.features(pictures())
    asked = classes or features.logits.argmax(1).tolist()
    expected = by_hand(features.maps[stage], features.logits, asked, 16)
    found = grad_cam(net, pictures(), classes, layer=f"stages.{stage}")
    assert found.shape == (3, 16, 16)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(grad_cam(net, pictures(), classes, layer=net.stages[stage]), found)


def test_classes_may_be_a_tensor_and_change_the_map():
    net = network()
    labels = torch.tensor([0, 3, 1])
    found = grad_cam(net, pictures(), labels, layer="stages.2")
    assert torch.equal(found, grad_cam(net, pictures(), [0, 3, 1], layer="stages.2"))
    assert not torch.allclose(found, grad_cam(net, pictures(), labels + 1, layer="stages.2"))


def test_images_do_not_see_each_other(monkeypatch):
    net, together = network(), grad_cam(network(), pictures(5), layer="stages.2")
    alone = torch.cat([grad_cam(net, picture[None], layer="stages.2") for picture in pictures(5)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("kdnb.analysis.gradcam.IMAGES_PER_PASS", 2)
    in_chunks = grad_cam(net, pictures(5), [4, 3, 2, 1, 0], layer="stages.2")
    monkeypatch.undo()
    expected = grad_cam(net, pictures(5), [4, 3, 2, 1, 0], layer="stages.2")
    torch.testing.assert_close(in_chunks, expected, rtol=1e-4, atol=1e-5)


# The faults of the package, one by one.


def test_modes_are_restored_module_by_module():
    net = network()
    net.stages[1].eval()
    before = state(net)
    assert len(set(before[0])) == 2
    grad_cam(net, pictures(), layer="stages.2")
    assert same(state(net), before)


def test_gradients_stay_the_same_tensors_with_the_same_bits():
    net = network()
    net(pictures()).sum().backward()
    net.head.bias.grad = None
    tensors = [weight.grad for weight in net.parameters()]
    values = [None if grad is None else grad.clone() for grad in tensors]
    grad_cam(net, pictures(), layer="stages.2")
    for weight, tensor, value in zip(net.parameters(), tensors, values, strict=True):
        assert weight.grad is tensor
        assert value is None or torch.equal(tensor, value)


def test_no_weight_receives_a_gradient_not_even_for_a_moment():
    """Hooks on gradients, as distributed training sets them, must not fire."""
    net, fired = network(), []
    for weight in net.parameters():
        weight.register_post_accumulate_grad_hook(fired.append)
    grad_cam(net, pictures(), layer="stages.2")
    assert not fired


@pytest.mark.parametrize("layer", ["conv", "bn", "relu", "again"])
def test_in_place_operations_behind_the_layer_change_nothing(layer):
    net = small().eval()
    found = grad_cam(net, pictures(), [0, 1, 2], layer=layer)
    twin = small(inplace=False).eval()
    kept = {}
    with twin.get_submodule(layer).register_forward_hook(lambda *call: kept.update(maps=call[2])):
        logits = twin(pictures())
    expected = by_hand(kept["maps"], logits, [0, 1, 2], 16)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_package_alone_does_get_in_place_relus_wrong():
    """If this fails, the package has mended it, and the clone in the wrapper can go."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net, targets = small(), [ClassifierOutputTarget(k) for k in range(3)]
    alone = torch.from_numpy(GradCAM(net, [net.bn])(pictures(), targets))
    assert (alone - grad_cam(net, pictures(), [0, 1, 2], layer="bn")).abs().max() > 0.3


def test_torchvisions_resnet_with_its_in_place_relus():
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = resnet18(num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = grad_cam(net, images, [0, 3], layer="layer3.1.bn2")
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    kept = {}

    def keep(module, inputs, output):  # a clone goes on: torchvision's ``out += identity`` is in-place
        kept["maps"] = output
        return output.clone()

    with net.layer3[1].bn2.register_forward_hook(keep):
        logits = net(images)
    torch.testing.assert_close(found, by_hand(kept["maps"], logits, [0, 3], 64), rtol=1e-4, atol=1e-4)


def test_a_frozen_network_gives_the_same_map_and_stays_frozen():
    expected = grad_cam(network(), pictures(), layer="stages.1")
    net = frozen(network())
    before = state(net)
    assert torch.equal(grad_cam(net, pictures(), layer="stages.1"), expected)
    assert same(state(net), before)
    assert not any(before[1])
    assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_off_around_it(around):
    net = network()
    expected = grad_cam(net, pictures(), layer="stages.2")
    with around():
        assert torch.equal(grad_cam(net, pictures(), layer="stages.2"), expected)
        assert not torch.is_grad_enabled()


def test_it_is_exact_under_autocast():
    net = network()
    expected = grad_cam(net, pictures(), layer="stages.2")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(grad_cam(net, pictures(), layer="stages.2"), expected)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: Tensor) -> tuple:
        features = self.net.features(images)
        return features.logits, features.embedding


def test_a_network_that_returns_a_tuple_is_told_what_to_wrap():
    net = Pair()
    before = state(net)
    with pytest.raises(InputError, match=r"returns a tuple; wrap it .* net\(images\)\[0\]"):
        grad_cam(net, pictures(), layer="net.stages.2")
    assert same(state(net), before)


def test_the_random_state_is_left_alone_even_by_a_random_network():
    class Random(Small):
        def forward(self, images):
            torch.rand(3)
            return super().forward(images)

    net = Random()
    before = torch.get_rng_state()
    grad_cam(net, pictures(), layer="relu")
    assert torch.equal(torch.get_rng_state(), before)


def test_images_are_not_changed_though_the_network_normalises_them_in_place():
    class InPlace(Small):
        def forward(self, images):
            return super().forward(images.sub_(1).div_(2))

    images = pictures()
    grad_cam(InPlace(), images, layer="relu")
    assert torch.equal(images, pictures())
    assert not images.requires_grad


# What cannot be explained.


def test_an_unknown_layer_names_the_nearest():
    with pytest.raises(InputError, match=r"Did you mean 'stages\.2"):
        grad_cam(network(), pictures(), layer="stage.2")
    with pytest.raises(InputError, match="Conv2d is not part of the network"):
        grad_cam(network(), pictures(), layer=nn.Conv2d(3, 3, 1))


def test_layers_that_are_no_map():
    net = network()
    before = state(net)
    with pytest.raises(InputError, match=r"\(B, C, h, w\), found shape \(3, 5\)"):
        grad_cam(net, pictures(), layer="head")
    assert same(state(net), before)


def test_a_layer_that_runs_twice_or_never():
    class Twice(Small):
        def forward(self, images):
            return super().forward(self.relu(images))

    with pytest.raises(InputError, match="ran 2 times"):
        grad_cam(Twice(), pictures(), layer="relu")
    net = small()
    net.extra = nn.Conv2d(3, 3, 1)
    with pytest.raises(InputError, match="ran 0 times"):
        grad_cam(net, pictures(), layer="extra")


def test_a_layer_on_which_the_logits_do_not_depend():
    class Aside(Small):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Conv2d(3, 3, 1)

        def forward(self, images):
            self.aside(images)
            return super().forward(images)

    net = Aside()
    before = state(net)
    with pytest.raises(InputError, match="do not depend on this layer"):
        grad_cam(net, pictures(), layer="aside")
    assert same(state(net), before)


def test_classes_that_do_not_fit():
    with pytest.raises(InputError, match="2 classes, 3 images"):
        grad_cam(network(), pictures(), [0, 1], layer="stages.2")
    for number in (5, -1):
        with pytest.raises(InputError, match=f"Class number {number} is not among the 5"):
            grad_cam(network(), pictures(), [0, 1, number], layer="stages.2")


def test_no_evidence_is_a_map_of_zeros():
    net = small().eval()
    with torch.no_grad():
        net.head.weight.fill_(-1.0)
    found = grad_cam(net, pictures(), layer="relu")
    assert found.isfinite().all()
    net.head.weight.data.zero_()
    assert torch.equal(grad_cam(net, pictures(), layer="relu"), torch.zeros(3, 16, 16))


def test_the_package_is_imported_only_when_asked_for():
    """It takes seconds; every notebook imports kdnb.analysis."""
    program = "import sys, kdnb.analysis; sys.exit('pytorch_grad_cam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_maps_that_are_not_stretched_have_the_size_of_the_layer():
    net, images = build("resnet8", classes=3).eval(), torch.randn(2, 3, 16, 16)
    small = grad_cam(net, images, [0, 1], layer="stages.2", stretched=False)
    large = grad_cam(net, images, [0, 1], layer="stages.2")
    assert (small.shape, large.shape) == ((2, 4, 4), (2, 16, 16))
    assert (small.amin((1, 2)).tolist(), small.amax((1, 2)).tolist()) == ([0, 0], pytest.approx([1, 1]))
    stretched = F.interpolate(small[:, None], (16, 16), mode="bilinear")[:, 0]
    torch.testing.assert_close(normalised(stretched), large, rtol=0, atol=1e-5)
