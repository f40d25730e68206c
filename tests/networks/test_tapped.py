import pytest
import torch
import torchvision
from torch import nn

from kdnb.errors import InputError
from kdnb.networks import Tapped, build

STAGES = {
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "mobilenet_v2": ("features.3", "features.6", "features.13", "features.18"),
    "shufflenet_v2_x1_0": ("stage2", "stage3", "conv5"),
    "efficientnet_b0": ("features.2", "features.8"),
}


def torchvisions(name: str) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, num_classes=10)


@pytest.mark.parametrize("name", STAGES)
def test_torchvisions_models_show_their_stages(name):
    net = Tapped(torchvisions(name), *STAGES[name], size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    features = net.features(images)
    declared = [(2, c, 64 // r, 64 // r) for c, r in zip(net.channels, net.reductions, strict=True)]
    assert [map.shape for map in features.maps] == declared
    assert torch.equal(features.logits, net(images))
    torch.testing.assert_close(features.embedding, features.final.mean((2, 3)))
    torch.testing.assert_close(net.head(features.embedding), features.logits)
    assert net.classes == 10


def test_the_model_is_left_as_it_was():
    model = torchvisions("resnet18").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Tapped(model, "layer4")
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    hooks = [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert not hooks


def test_a_pass_leaves_no_hook_even_if_it_fails():
    net = Tapped(torchvisions("resnet18"), "layer4")
    with pytest.raises(RuntimeError):
        net.features(torch.randn(2, 5, 32, 32))
    assert not [h for m in net.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


def test_our_own_networks_can_be_tapped_too():
    net, images = build("resnet8", classes=10).eval(), torch.randn(2, 3, 32, 32)
    seen, own = Tapped(net, "stages.0", "stages.2").features(images), net.features(images)
    assert torch.equal(seen.maps[1], own.maps[2])
    assert torch.equal(seen.embedding, own.embedding)


def test_gradients_reach_what_lies_before_a_tap():
    net = Tapped(torchvisions("resnet18"), "layer1", "layer4")
    net.features(torch.randn(2, 3, 32, 32)).maps[0].sum().backward()
    assert net.model.conv1.weight.grad.abs().sum() > 0
    assert net.model.layer2[0].conv1.weight.grad is None


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"'layr4'.*'layer4'"):
        Tapped(torchvisions("resnet18"), "layr4")
    with pytest.raises(InputError, match="'layer3', has 256 channels, but the head 'fc' takes 512"):
        Tapped(torchvisions("resnet18"), "layer3")
    with pytest.raises(InputError, match=r"ends in 'classifier.3', a AdaptiveAvgPool2d.*linear"):
        Tapped(torchvisions("squeezenet1_0"), "features")
    with pytest.raises(InputError, match=r"'aux1.conv' takes no part"):
        Tapped(torchvision.models.googlenet(weights=None, num_classes=10, init_weights=False), "aux1.conv")
    with pytest.raises(InputError, match="takes 4096"):
        Tapped(torchvisions("vgg11"), "features")
    with pytest.raises(InputError, match="at least one stage"):
        Tapped(torchvisions("resnet18"))
    with pytest.raises(InputError, match=r"'fc'.*a stage gives"):
        Tapped(torchvisions("resnet18"), "fc", "layer4")
