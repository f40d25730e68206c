"""The answer key of notebook 07 is the library."""

import pytest
import torch

from kdnb.exercises.ddnn import EXERCISES
from kdnb.methods import DDNN
from kdnb.networks import DepthNet, build, cost


def reference(name: str):
    return EXERCISES[name].reference


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 16, 16, generator=generator), torch.arange(6) % 4


def test_convolutions_and_head_make_up_the_macs_of_a_network():
    """resnet8 by hand, with the reader's formula."""
    macs = reference("conv_macs")
    stem = macs(3, 16, 3, 32, 1)
    stages = 0
    for channels_in, channels_out, size, stride in ((16, 16, 32, 1), (16, 32, 32, 2), (32, 64, 16, 2)):
        stages += macs(channels_in, channels_out, 3, size, stride)
        stages += macs(channels_out, channels_out, 3, size // stride, 1)
        stages += macs(channels_in, channels_out, 1, size, stride) if stride == 2 else 0
    assert stem + stages + 64 * 12 == cost(build("resnet8", classes=12)).macs


@pytest.mark.parametrize("blocks", [(3, 3, 3), (2, 2, 2), (3, 1, 2)])
def test_a_sub_net_is_that_of_the_library(batch, blocks):
    full = build("resnet20", classes=4).eval()
    own = reference("sub_net")(full.stem, full.stages, full.head, batch[0], blocks)
    if blocks == (3, 3, 3):
        assert torch.equal(own, full(batch[0]))
    else:
        net = DepthNet(full, [blocks], batch_norm="shared")
        assert torch.equal(own, net.at_depth(2 + 2 * sum(blocks))(batch[0]))


def test_the_terms_are_the_methods(batch):
    method = DDNN(build("resnet20", classes=4), attention="unit", attention_weight=10.0).eval()
    terms = method.losses(*batch, 0.0)
    full, *subnets = method.net.features_at_all(batch[0]).values()
    soft = reference("embedded_soft")([full.logits, *(net.logits for net in subnets)], 3.0)
    torch.testing.assert_close(soft, terms["depth14/soft"] + terms["depth8/soft"])
    for name, net in zip(("depth14", "depth8"), subnets, strict=True):
        attention = 10 * reference("embedded_attention")(net.maps, full.maps)
        torch.testing.assert_close(attention, terms[f"{name}/attention"])


def test_batch_norms_begin_and_part_as_the_librarys_do():
    full = build("resnet20", classes=4)
    full.train()(torch.randn(4, 3, 16, 16))
    first = full.stages[1][0].bn1
    norms = reference("own_batch_norms")(first, (20, 14, 8))
    net = DepthNet(full, (14, 8))
    for depth, norm in norms.items():
        theirs = net.at_depth(depth).stages[1][0].bn1
        assert (norm is first) == (theirs is first) == (depth == 20)
        state = theirs.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in norm.state_dict().items())


def test_a_check_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    for exercise in EXERCISES.values():
        exercise.probe(exercise.reference)
    assert torch.equal(torch.random.get_rng_state(), before)
