import pytest
import torch

from kdnb.errors import InputError
from kdnb.methods import ECD
from kdnb.networks import NETWORKS, ResNet, build, cost
from kdnb.networks.dynamic import DynamicAdditiveConv

# name: (parameters at K = 100, million MACs), methods/README.md, Networks; resnet18 to 101: torchvision's
COSTS = {
    "resnet8": (83_892, 12.5),
    "resnet14": (181_108, 26.7),
    "resnet20": (278_324, 40.8),
    "resnet32": (472_756, 69.1),
    "resnet44": (667_188, 97.4),
    "resnet56": (861_620, 125.8),
    "resnet110": (1_736_564, 253.2),
    "resnet8x4": (1_233_540, 177.1),
    "resnet32x4": (7_433_860, 1083.0),
    "resnet18": (11_227_812, 37.1),
    "resnet34": (21_335_972, 74.8),
    "resnet50": (23_712_932, 83.6),
    "resnet101": (42_705_060, 159.4),
    "wrn_16_1": (180_916, 26.7),
    "wrn_16_2": (703_284, 101.1),
    "wrn_40_1": (569_780, 83.3),
    "wrn_40_2": (2_255_156, 327.6),
    "vgg8": (3_965_028, 96.2),
    "vgg11": (9_277_284, 209.4),
    "vgg13": (9_462_180, 284.9),
    "vgg16": (14_774_436, 398.2),
    "vgg19": (20_086_692, 511.4),
    "mobilenetv2": (812_836, 6.5),
    "shufflenetv2": (1_355_528, 44.5),
    "densenet_40_12": (1_100_428, 283.0),
    "googlenet": (6_258_500, 1521.8),  # 1521.848
}
FAMILIES = ("resnet8", "wrn_16_2", "vgg8", "mobilenetv2", "shufflenetv2", "densenet_40_12", "googlenet")


def test_every_network_has_a_known_cost():
    others = {name for name in NETWORKS if name.startswith("torchvision-")}  # in a test of their own
    assert set(COSTS) == set(NETWORKS) - others


@pytest.mark.parametrize("name", COSTS)
def test_parameters_and_macs(name):
    found = cost(build(name, classes=100))
    assert found.parameters == COSTS[name][0]
    assert found.macs / 1e6 == pytest.approx(COSTS[name][1], abs=0.05)


@pytest.mark.parametrize(("name", "width"), [("resnet8", 1), ("resnet20", 1), ("resnet8x4", 4)])
def test_taps_have_the_declared_shapes_and_signs(name, width):
    net = build(name, classes=7).eval()
    features = net.features(torch.randn(2, 3, 32, 32))
    stem = 32 if width == 4 else 16
    assert features.stem.shape == (2, stem, 32, 32)
    sizes = [(2, 16 * width, 32, 32), (2, 32 * width, 16, 16), (2, 64 * width, 8, 8)]
    assert [map.shape for map in features.maps] == sizes
    declared = [(2, c, 32 // r, 32 // r) for c, r in zip(net.channels, net.reductions, strict=True)]
    assert declared == sizes
    assert features.embedding.shape == (2, 64 * width)
    assert features.logits.shape == (2, net.classes) == (2, 7)
    for map in (features.stem, *features.maps):
        assert map.min() == 0  # after a ReLU
    assert torch.equal(features.embedding, features.maps[-1].mean((2, 3)))
    assert torch.equal(features.logits, net.head(features.embedding))


@pytest.mark.parametrize("size", [32, 48, 64])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_image_sizes_keep_the_declared_shapes(name, size):
    net = build(name, classes=7).eval()
    features = net.features(torch.randn(2, 3, size, size))
    declared = [(2, c, size // r, size // r) for c, r in zip(net.channels, net.reductions, strict=True)]
    assert [map.shape for map in features.maps] == declared
    assert features.embedding.shape == (2, net.head.in_features)
    assert torch.equal(features.embedding, features.final.mean((2, 3)))
    assert features.logits.shape == (2, net.classes) == (2, 7)
    assert torch.equal(features.logits, net.head(features.embedding))


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_gives_the_logits_of_features(name):
    net, images = build(name, classes=5).eval(), torch.randn(2, 3, 20, 20)
    assert torch.equal(net(images), net.features(images).logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_every_parameter(name):
    # In eval mode: batch statistics would cancel the biases of convolutions before a batch norm.
    net = build(name, classes=5).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    net(images).square().sum().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize(
    "name", ["resnet32x4", "wrn_40_2", "vgg8", "mobilenetv2", "densenet_40_12", "googlenet"]
)
def test_convolutions_start_kaiming_normal_fan_out(name):
    net, in_their_std = build(name, classes=10), []
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2  # whatever the groups
            expected = (2 / fan_out) ** 0.5
            five_sigma = 5 / (2 * module.weight.numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=five_sigma)
            in_their_std.append(module.weight.flatten() / expected)
            if name != "googlenet":  # its biases start at PyTorch's default
                assert module.bias is None or (name == "vgg8" and module.bias.eq(0).all())
    everything = torch.cat(in_their_std).detach()
    assert everything.mean().item() == pytest.approx(0, abs=0.01)
    assert everything.std().item() == pytest.approx(1, rel=0.01)
    assert everything.pow(4).mean().item() == pytest.approx(3, rel=0.03)  # a uniform has 1.8


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_norms_start_as_the_identity(name):
    for module in build(name, classes=10).modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()


def test_only_blocks_that_change_shape_have_a_shortcut_convolution():
    narrow, wide = build("resnet20", classes=10), build("resnet8x4", classes=10)
    shortcuts = [n for n, _ in narrow.named_modules() if n.endswith("shortcut.0")]
    assert shortcuts == ["stages.1.0.shortcut.0", "stages.2.0.shortcut.0"]
    assert "stages.0.0.shortcut.0" in dict(wide.named_modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_gives_the_same_network_and_leaves_the_global_state(name):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (build(name, classes=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(map(torch.equal, one.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("name", "relus"),
    [
        ("resnet14", 13),
        ("wrn_16_2", 13),
        ("vgg13", 10),
        ("mobilenetv2", 36),
        ("shufflenetv2", 37),
        ("densenet_40_12", 39),
        ("googlenet", 64),
    ],
)
def test_every_relu_is_used_once_and_not_in_place(name, relus):
    calls, net = [], build(name, classes=3)
    for module in net.modules():
        if isinstance(module, torch.nn.ReLU):
            assert not module.inplace
            module.register_forward_hook(lambda m, i, o: calls.append(m))
    net.eval()(torch.randn(1, 3, 8, 8))
    assert len(calls) == len(set(calls)) == relus


def test_an_unknown_network_names_the_nearest():
    with pytest.raises(InputError, match=r"'resnet_20'\. Did you mean 'resnet20'"):
        build("resnet_20", classes=10)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_one_class_is_no_classifier(classes):
    with pytest.raises(InputError, match=f"at least 2 classes, found {classes}"):
        build("resnet8", classes=classes)


@pytest.mark.parametrize("depth", [2, 9, 21])
def test_depths_are_6n_plus_2(depth):
    with pytest.raises(ValueError, match=f"6n \\+ 2.*found {depth}"):
        ResNet(depth, 10)


@pytest.mark.parametrize("name", FAMILIES)
def test_dynamic_behind_a_name_builds_what_ecd_builds_as_teacher(name):
    net, teacher = build(f"{name}-dynamic", classes=7), ECD(build(name, classes=7)).teacher
    assert {path: tensor.shape for path, tensor in net.state_dict().items()} == {
        path: tensor.shape for path, tensor in teacher.state_dict().items()
    }
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {type(module) for module in convolutions} == {DynamicAdditiveConv}
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_a_dynamic_network_is_reproducible_and_leaves_the_global_state():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (build("resnet8-dynamic", classes=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(map(torch.equal, one.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(one.stem[0].experts, other.stem[0].experts)


def test_a_dynamic_network_is_made_once_and_of_a_known_one():
    for name in ("resnet9-dynamic", "resnet8-dynamic-dynamic", "-dynamic"):
        with pytest.raises(InputError, match="Unknown network"):
            build(name, classes=10)
    with pytest.raises(InputError, match=r"'stem\.0' is a DynamicAdditiveConv that does more"):
        ECD(build("resnet8-dynamic", classes=10))
