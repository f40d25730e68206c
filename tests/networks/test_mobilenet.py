import pytest
import torch
from torch import nn

from kdnb.networks import build
from kdnb.networks.mobilenet import InvertedResidual


@pytest.fixture
def net():
    return build("mobilenetv2", classes=7)


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_maps_are_linear_bottlenecks(net, images):
    features = net.features(images)
    assert features.stem.shape == (4, 16, 16, 16)
    assert features.stem.min() == 0
    shapes = [(4, 12, 16, 16), (4, 16, 8, 8), (4, 48, 4, 4), (4, 160, 2, 2)]
    assert [tap.shape for tap in features.maps] == shapes
    for tap in features.maps:
        assert 0.4 < tap.lt(0).float().mean() < 0.6
        assert not tap.eq(0).any()


def test_the_embedding_is_pooled_after_a_last_relu(net, images):
    net.eval()
    features = net.features(images)
    assert features.embedding.shape == (4, 1280)
    convolution, batch_norm, _ = net.last
    before = batch_norm(convolution(features.maps[-1]))
    assert before.min() < 0
    assert torch.equal(features.embedding, before.clamp(min=0).mean((2, 3)))


def test_the_seven_stages_of_the_paper_at_half_width(net):
    blocks = [m for m in net.modules() if isinstance(m, InvertedResidual)]
    widths = [8] + [12] * 2 + [16] * 3 + [32] * 4 + [48] * 3 + [80] * 3 + [160]
    assert [block.project[0].out_channels for block in blocks] == widths
    expansions = [block.expand[0].out_channels / block.expand[0].in_channels for block in blocks]
    assert expansions == [1] + [6] * 16
    strided = [widths[i] for i, block in enumerate(blocks) if block.depthwise[0].stride == (2, 2)]
    assert strided == [16, 32, 80]
    assert all(block.depthwise[0].groups == block.depthwise[0].in_channels for block in blocks)


@pytest.mark.parametrize(
    ("channels_out", "stride", "added"), [(4, 1, True), (4, 2, False), (6, 1, False), (6, 2, False)]
)
def test_the_input_is_added_where_the_shape_stays(channels_out, stride, added):
    block, x = InvertedResidual(4, channels_out, stride, 6).eval(), torch.randn(2, 4, 6, 6)
    nn.init.zeros_(block.project[0].weight)
    assert torch.equal(block(x), x if added else torch.zeros(2, channels_out, 6 // stride, 6 // stride))


def test_relu_has_no_ceiling(net, images):
    assert net.eval().features(100 * images).stem.max() > 6


def test_the_head_starts_small():
    head = build("mobilenetv2", classes=100).head
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.weight.abs().max() > 0.03  # a normal has tails, a uniform of this width none
    assert head.bias.eq(0).all()
