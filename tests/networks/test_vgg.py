import pytest
import torch
from torch import nn

from kdnb.errors import InputError
from kdnb.networks import VGG, build

BLOCKS = {
    8: [1, 1, 1, 1, 1],
    11: [1, 1, 2, 2, 2],
    13: [2, 2, 2, 2, 2],
    16: [2, 2, 3, 3, 3],
    19: [2, 2, 4, 4, 4],
}


@pytest.mark.parametrize("depth", BLOCKS)
def test_convolutions_stand_in_their_blocks(depth):
    net = build(f"vgg{depth}", classes=7)
    blocks = (net.stem, *net.stages)
    assert [sum(isinstance(m, nn.Conv2d) for m in block) for block in blocks] == BLOCKS[depth]


@pytest.mark.parametrize("size", [32, 64])
def test_two_maps_share_an_eighth_of_the_size(size):
    features = build("vgg13", classes=7).eval().features(torch.randn(2, 3, size, size))
    assert features.stem.shape == (2, 64, size, size)
    shapes = [(128, size // 2), (256, size // 4), (512, size // 8), (512, size // 8)]
    assert [tap.shape for tap in features.maps] == [(2, c, side, side) for c, side in shapes]
    assert torch.equal(features.embedding, features.maps[-1].mean((2, 3)))


def test_pools_round_down():
    features = build("vgg8", classes=7).eval().features(torch.randn(2, 3, 44, 44))
    assert [tap.shape[-1] for tap in features.maps] == [22, 11, 5, 5]


def test_taps_stand_between_the_relu_and_the_max_pool():
    net, entering = build("vgg8", classes=7).eval(), []
    for stage in net.stages:
        first = next(m for m in stage if isinstance(m, nn.Conv2d))
        first.register_forward_pre_hook(lambda module, args: entering.append(args[0]))
    features = net.features(torch.randn(2, 3, 32, 32))
    taps = (features.stem, *features.maps)
    for tap in taps:
        assert tap.min() == 0
    pooled = [nn.functional.max_pool2d(tap, 2) for tap in taps[:3]]
    assert len(entering) == 4
    assert all(map(torch.equal, entering, [*pooled, taps[3]]))


def test_the_head_starts_small():
    head = build("vgg8", classes=100).head
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert head.weight.abs().max() > 0.03  # a normal has tails, a uniform of this width none
    assert head.bias.eq(0).all()


@pytest.mark.parametrize("depth", [0, 9, 12])
def test_an_unknown_depth_lists_the_known_ones(depth):
    with pytest.raises(InputError, match=f"8, 11, 13, 16, 19, found {depth}"):
        VGG(depth, 10)
