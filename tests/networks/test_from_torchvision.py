"""torchvision's ImageNet networks by name: as students, as teachers, on disk."""

import pytest
import torch
import torchvision

from kdnb.datasets import Augmentation, Batches
from kdnb.method import Parts
from kdnb.methods import METHODS
from kdnb.networks import build, cost
from kdnb.runs import load_network
from kdnb.runs.checkpoints import save_network
from kdnb.train import train

# torchvision's documentation: parameters with 1000 classes, and billion multiplications at 224 pixels
PUBLISHED = {
    "resnet18": (11_689_512, 1.81),
    "resnet34": (21_797_672, 3.66),
    "resnet50": (25_557_032, 4.09),
    "mobilenet_v2": (3_504_872, 0.30),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_as_published(name):
    parameters, macs = cost(build(f"torchvision-{name}", classes=1000), size=224)
    assert parameters == PUBLISHED[name][0]
    assert macs / 1e9 == pytest.approx(PUBLISHED[name][1], abs=0.01)


@pytest.mark.parametrize("name", PUBLISHED)
def test_maps_have_the_declared_shapes_and_the_weights_are_torchvisions(name):
    net = build(f"torchvision-{name}", classes=7, seed=3).eval()
    images = torch.randn(2, 3, 64, 64)
    features = net.features(images)
    assert net.reductions == (4, 8, 16, 32)
    declared = [(2, c, 64 // r, 64 // r) for c, r in zip(net.channels, net.reductions, strict=True)]
    assert [map.shape for map in features.maps] == declared
    torch.testing.assert_close(features.embedding, features.final.mean((2, 3)))
    torch.manual_seed(3)
    own = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    assert torch.equal(own(images), features.logits)


@pytest.fixture
def labels():
    return torch.arange(8) % 2


@pytest.fixture
def batches(labels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8, generator=generator)
    return Batches(images, labels, 4, (0.5,) * 3, (0.25,) * 3, True, Augmentation())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "student", "teacher"),
    [
        ("kd", "torchvision-mobilenet_v2", "torchvision-resnet50"),
        ("at", "torchvision-mobilenet_v2", "torchvision-resnet34"),
        ("srrl", "torchvision-resnet18", "torchvision-resnet34"),
        ("semckd", "torchvision-mobilenet_v2", "torchvision-resnet18"),
        ("semckd", "resnet8", "torchvision-resnet18"),
        ("ecd", "torchvision-resnet18", ""),
    ],
)
def test_methods_train_a_step(batches, labels, method, student, teacher):
    parts = Parts(
        network=lambda number: build(student, classes=2, seed=number),
        load_teacher=lambda: build(teacher, classes=2),
        batch_size=4,
        labels=labels,
        indices=torch.arange(8),
        held_out=batches,
    )
    trained = METHODS[method].assemble(parts)
    before = {name: weight.clone() for name, weight in trained.export().named_parameters()}
    [epoch] = train(trained, batches, epochs=1, lr=0.01, precision="fp32", device="cpu")
    assert all(value > 0 for value in epoch.losses.values())
    assert all(not torch.equal(weight, before[name]) for name, weight in trained.export().named_parameters())


def test_a_network_comes_back_from_its_file(tmp_path, batches):
    class About:
        classes, mean, std, size = ("a", "b"), (0.5,) * 3, (0.25,) * 3, 64

    net = build("torchvision-mobilenet_v2", classes=2, seed=1).eval()
    save_network(net, "torchvision-mobilenet_v2", About, tmp_path / "student.safetensors")
    again = load_network(tmp_path, expected="torchvision-mobilenet_v2").net.eval()
    images = next(iter(batches)).images
    assert torch.equal(again(images), net(images))
