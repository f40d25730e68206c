import pytest
import torch
from torch import nn

from kdnb.errors import InputError
from kdnb.networks import WideResNet, build
from kdnb.networks.wide_resnet import PreactivationBlock


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "width"), [("wrn_16_1", 1), ("wrn_40_2", 2)])
def test_taps_are_raw_and_the_embedding_is_activated(images, name, width):
    net = build(name, classes=7).eval()
    features = net.features(images)
    assert features.stem.shape == (2, 16, 32, 32)
    sizes = [(2, 16 * width, 32, 32), (2, 32 * width, 16, 16), (2, 64 * width, 8, 8)]
    assert [tap.shape for tap in features.maps] == sizes
    for tap in (features.stem, *features.maps):
        assert tap.min() < 0 < tap.max()
        assert tap.eq(0).float().mean() < 0.01  # nothing clipped
    batch_norm = net.last[0](features.maps[-1])
    assert torch.equal(features.embedding, batch_norm.clamp(min=0).mean((2, 3)))


def test_the_stem_is_a_bare_convolution(images):
    net = build("wrn_16_1", classes=7).eval()
    found = net.features(images).stem
    assert torch.allclose(found, nn.functional.conv2d(images, net.stem.weight, padding=1))


def test_an_identity_shortcut_carries_the_raw_input():
    block, x = PreactivationBlock(4, 4, 1).eval(), torch.randn(2, 4, 6, 6)
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x)


def test_a_convolution_shortcut_starts_from_the_activated_input():
    block, x = PreactivationBlock(4, 8, 2).eval(), -torch.rand(2, 4, 6, 6)
    nn.init.zeros_(block.conv2.weight)
    assert block(x).eq(0).all()  # batch norm and ReLU leave nothing of a negative input
    assert block(-x).ne(0).any()
    assert block(x).shape == (2, 8, 3, 3)


@pytest.mark.parametrize(
    ("name", "shortcuts"),
    [("wrn_16_1", ["stages.1.0", "stages.2.0"]), ("wrn_16_2", ["stages.0.0", "stages.1.0", "stages.2.0"])],
)
def test_only_blocks_that_change_the_width_have_a_shortcut_convolution(name, shortcuts):
    names = [n for n, _ in build(name, classes=7).named_modules()]
    assert [n for n in names if n.endswith("shortcut")] == [f"{n}.shortcut" for n in shortcuts]


@pytest.mark.parametrize("depth", [10, 16, 28, 40])
def test_depth_counts_every_convolution_of_a_wide_net(depth):
    net = WideResNet(depth, 2, 10)
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == depth
    assert all(len(stage) == (depth - 4) // 6 for stage in net.stages)


def test_the_head_starts_at_pytorchs_weights_and_no_bias():
    head = build("wrn_40_2", classes=100).head
    bound = head.in_features**-0.5
    assert head.bias.eq(0).all()
    assert head.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert head.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


@pytest.mark.parametrize("depth", [4, 14, 20, 41])
def test_depths_are_6n_plus_4(depth):
    with pytest.raises(InputError, match=f"6n \\+ 4.*found {depth}"):
        WideResNet(depth, 2, 10)


@pytest.mark.parametrize("width", [0, -1])
def test_widths_start_at_1(width):
    with pytest.raises(InputError, match=f"at least 1.*found {width}"):
        WideResNet(16, width, 10)
