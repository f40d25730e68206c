import pytest
import torch
from torch import nn

from kdnb.networks import build
from kdnb.networks.shufflenet import DownsamplingUnit, Unit, shuffled


@pytest.fixture
def net():
    return build("shufflenetv2", classes=7).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_maps_are_activated_stage_outputs(net, images):
    features = net.features(images)
    assert features.stem.shape == (2, 24, 32, 32)
    shapes = [(2, 116, 16, 16), (2, 232, 8, 8), (2, 464, 4, 4)]
    assert [tap.shape for tap in features.maps] == shapes
    for tap in (features.stem, *features.maps):
        assert tap.min() == 0 < tap.max()
    assert [len(stage) for stage in net.stages] == [4, 8, 4]


def test_the_embedding_is_pooled_after_a_last_relu(net, images):
    features = net.features(images)
    assert features.embedding.shape == (2, 1024)
    convolution, batch_norm, _ = net.last
    before = batch_norm(convolution(features.maps[-1]))
    assert before.min() < 0
    assert torch.equal(features.embedding, before.clamp(min=0).mean((2, 3)))


def test_the_stem_looks_at_single_pixels(net, images):
    dot = torch.zeros(1, 3, 9, 9)
    dot[..., 4, 4] = 1
    changed = (net.features(dot).stem != net.features(0 * dot).stem).any(1)[0]
    assert changed.nonzero().tolist() == [[4, 4]]


def test_shuffling_interleaves_the_halves():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffled(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(shuffled(x), nn.functional.channel_shuffle(x, 2))


def test_a_unit_passes_half_the_channels_untouched():
    unit, x = Unit(8).eval(), torch.randn(2, 8, 5, 5)
    out = unit(x)
    assert torch.equal(out[:, 0::2], x[:, :4])
    assert torch.equal(out[:, 1::2], unit.branch(x[:, 4:]))


def test_a_downsampling_unit_sends_everything_through_both_branches():
    unit, x = DownsamplingUnit(4, 12).eval(), torch.randn(2, 4, 6, 6)
    out = unit(x)
    assert out.shape == (2, 12, 3, 3)
    assert torch.equal(out[:, 0::2], unit.short_branch(x))
    assert torch.equal(out[:, 1::2], unit.branch(x))


@pytest.mark.parametrize("unit", [Unit(8), DownsamplingUnit(4, 8)])
def test_no_relu_follows_a_depthwise_convolution(unit):
    for branch in unit.children():
        layers = list(branch)
        (depthwise,) = [i for i, m in enumerate(layers) if isinstance(m, nn.Conv2d) and m.groups > 1]
        assert [type(m) for m in layers[depthwise + 1 : depthwise + 3]] == [nn.BatchNorm2d, nn.Conv2d]
        assert isinstance(layers[-1], nn.ReLU)


def test_everything_starts_at_pytorchs_defaults():
    net = build("shufflenetv2", classes=100)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5  # uniform within 1 / sqrt(fan in)
            assert module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
    assert 0 < net.head.bias.abs().max() <= 1024**-0.5
