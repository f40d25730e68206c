import pytest
import torch
from torch import nn

from kdnb.networks import build
from kdnb.networks.googlenet import Inception


@pytest.fixture(scope="module")
def net():
    return build("googlenet", classes=7).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_maps_are_activated_stage_outputs(net, images):
    features = net.features(images)
    assert features.stem.shape == (2, 192, 32, 32)
    shapes = [(2, 480, 32, 32), (2, 832, 16, 16), (2, 1024, 8, 8)]
    assert [tap.shape for tap in features.maps] == shapes
    for tap in (features.stem, *features.maps):
        assert tap.min() == 0 < tap.max()
    assert features.final is features.maps[-1]


def test_two_five_and_two_modules(net):
    modules = [sum(isinstance(m, Inception) for m in stage) for stage in net.stages]
    assert modules == [2, 5, 2]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_max_pool_opens_the_later_stages(net, stage):
    pool, x = net.stages[stage][0], torch.randn(2, 5, 8, 8)
    assert torch.equal(pool(x), nn.functional.max_pool2d(x, 3, stride=2, padding=1))


def test_a_module_sets_its_four_branches_side_by_side():
    module, x = Inception(6, 2, 3, 4, 5, 6, 7).eval(), torch.randn(2, 6, 9, 9)
    out = module(x)
    assert out.shape == (2, module.channels_out, 9, 9) == (2, 2 + 4 + 6 + 7, 9, 9)
    for found, branch in zip(out.split((2, 4, 6, 7), dim=1), module.branches, strict=True):
        assert torch.equal(found, branch(x))
        assert found.min() == 0


def test_the_branches_look_1_3_5_and_3_pixels_wide():
    module = Inception(1, 64, 64, 64, 64, 64, 64).eval()
    dot = torch.zeros(1, 1, 9, 9)
    dot[..., 4, 4] = 1
    for branch, width in zip(module.branches, (1, 3, 5, 3), strict=True):
        changed = (branch(dot) != branch(0 * dot)).any(1)[0]
        seen = changed.nonzero()
        assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [width, width]


def test_every_convolution_meets_a_batch_norm_and_a_relu(net):
    for branch in (net.stem, *(b for m in net.modules() if isinstance(m, Inception) for b in m.branches)):
        layers = [type(layer) for layer in branch if not isinstance(layer, nn.MaxPool2d)]
        assert layers == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * (len(layers) // 3)


def test_biases_and_the_head_start_at_pytorchs_defaults(net):
    biases = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            biases.append(module.bias * module.weight[0].numel() ** 0.5)  # uniform within 1 / sqrt(fan in)
    biases = torch.cat(biases)
    assert biases.abs().max() <= 1
    assert biases.std().item() == pytest.approx(3**-0.5, rel=0.03)
    assert net.head.weight.abs().max() <= 1024**-0.5
    assert net.head.weight.std().item() == pytest.approx((3 * 1024) ** -0.5, rel=0.03)


@pytest.mark.parametrize("size", [1, 5, 33])
def test_odd_sizes_round_up(net, size):
    maps = net.features(torch.randn(1, 3, size, size)).maps
    assert [tap.shape[-1] for tap in maps] == [size, -(-size // 2), -(-size // 4)]
