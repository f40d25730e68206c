import pytest
import torch
import torchvision
from torch import nn

from kdnb.errors import InputError
from kdnb.networks import ImageNetResNet, build


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_with_torchvisions_weights_it_is_torchvisions_network(depth):
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=7).eval()
    ours = build(f"resnet{depth}", classes=7).eval()
    with torch.no_grad():  # both lists are in the order of construction, shortcuts last in a block
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_stages_are_as_declared(name):
    net, images = build(name, classes=7).eval(), torch.randn(1, 3, 64, 64)
    features = net.features(images)
    declared = [(1, c, 64 // r, 64 // r) for c, r in zip(net.channels, net.reductions, strict=True)]
    assert [map.shape for map in features.maps] == declared
    assert features.stem.shape == (1, 64, 16, 16)
    assert all(map.min() == 0 for map in features.maps)
    assert torch.equal(features.logits, net.head(features.embedding))


def test_every_relu_is_used_once_and_not_in_place():
    calls, net = [], build("resnet50", classes=3).eval()
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            assert not module.inplace
            module.register_forward_hook(lambda m, i, o: calls.append(m))
    net(torch.randn(1, 3, 32, 32))
    assert len(calls) == len(set(calls)) == 49


def test_depth_counts_the_layers():
    assert [build(name, classes=2).depth for name in ("resnet18", "resnet50", "resnet20")] == [18, 50, 20]


def test_unknown_depths_list_the_known_ones():
    with pytest.raises(InputError, match="one of 18, 34, 50, 101, found 26"):
        ImageNetResNet(26, 10)
    with pytest.raises(InputError, match="Bottlenecks have 50 or 101 layers, found 34"):
        build("resnet50", classes=2).blocks_at(34)
