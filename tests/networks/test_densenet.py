import pytest
import torch
from torch import nn

from kdnb.errors import InputError
from kdnb.networks import DenseNet, build
from kdnb.networks.densenet import DenseLayer


@pytest.fixture
def net():
    return build("densenet_40_12", classes=7).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_taps_are_raw_and_the_final_map_is_activated(net, images):
    features = net.features(images)
    assert features.stem.shape == (2, 24, 32, 32)
    shapes = [(2, 168, 32, 32), (2, 312, 16, 16), (2, 456, 8, 8)]
    assert [tap.shape for tap in features.maps] == shapes
    for tap in (features.stem, *features.maps):
        assert tap.min() < 0 < tap.max()
        assert tap.eq(0).float().mean() < 0.01  # nothing clipped
    assert features.final.shape == shapes[-1]
    assert torch.equal(features.final, net.last[0](features.maps[-1]).clamp(min=0))


def test_the_stem_is_a_bare_convolution(net, images):
    found = net.features(images).stem
    assert torch.allclose(found, nn.functional.conv2d(images, net.stem.weight, padding=1))


def test_a_layer_appends_to_its_raw_input():
    layer, x = DenseLayer(5, 3).eval(), torch.randn(2, 5, 6, 6)
    out = layer(x)
    assert out.shape == (2, 8, 6, 6)
    assert torch.equal(out[:, :5], x)
    assert torch.equal(out[:, 5:], layer.new(x))
    assert layer(-x.abs())[:, 5:].eq(0).all()  # batch norm and ReLU leave nothing of a negative input


def test_a_block_keeps_everything_it_was_given(net, images):
    features = net.features(images)
    assert torch.equal(features.maps[0][:, :24], features.stem)
    for stage, before, after in zip(net.stages[1:], features.maps[:-1], features.maps[1:], strict=True):
        norm, _, convolution, *_ = stage
        activated = norm(before).clamp(min=0)
        entering = nn.functional.avg_pool2d(convolution(activated), 2)  # a transition keeps the width
        assert torch.allclose(after[:, : before.shape[1]], entering, atol=1e-5)


@pytest.mark.parametrize("depth", [7, 10, 40])
def test_depth_counts_every_convolution_and_the_head(depth):
    net = DenseNet(depth, 4, 10)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == depth
    layers = [sum(isinstance(m, DenseLayer) for m in stage) for stage in net.stages]
    assert layers == [(depth - 4) // 3] * 3
    assert net.channels == tuple(8 + 4 * layers[0] * block for block in (1, 2, 3))


def test_the_head_starts_at_pytorchs_default():
    head = build("densenet_40_12", classes=100).head
    bound = head.in_features**-0.5
    for parameter in (head.weight, head.bias):
        assert parameter.abs().max().item() == pytest.approx(bound, rel=0.05)
        assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


@pytest.mark.parametrize("size", [4, 7, 33])
def test_odd_sizes_round_down(net, size):
    maps = net.features(torch.randn(1, 3, size, size)).maps
    assert [tap.shape[-1] for tap in maps] == [size, size // 2, size // 4]


@pytest.mark.parametrize("depth", [4, 12, 39, 41])
def test_depths_are_3n_plus_4(depth):
    with pytest.raises(InputError, match=f"3n \\+ 4.*found {depth}"):
        DenseNet(depth, 12, 10)


@pytest.mark.parametrize("growth", [0, -1])
def test_growth_starts_at_1(growth):
    with pytest.raises(InputError, match=f"at least 1.*found {growth}"):
        DenseNet(40, growth, 10)
