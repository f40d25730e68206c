import pytest
import torch
import torchvision
from torch import nn

from kdnb.errors import InputError
from kdnb.methods.ecd.links import by_stage, last_of_stages, residual_blocks, supplied, watched
from kdnb.networks import Tapped, build
from kdnb.networks.dynamic import DynamicAdditiveConv, convolutions

LAST = {
    "resnet14": [f"stages.{i}.1.conv2" for i in range(3)],
    "resnet8": [f"stages.{i}.0.conv2" for i in range(3)],  # where a shortcut convolution runs after it
    "wrn_16_1": [f"stages.{i}.1.conv2" for i in range(3)],
    "vgg8": ["stages.0.1", "stages.1.1", "stages.2.1", "stages.3.0"],
    "mobilenetv2": [f"stages.{i}.{n}.project.0" for i, n in enumerate((2, 2, 6, 3))],
    "shufflenetv2": [f"stages.{i}.{n}.branch.5" for i, n in enumerate((3, 7, 3))],
}


def last(net: nn.Module, size: int = 32) -> list[str]:
    with torch.no_grad(), watched(net, list(convolutions(net))) as seen:
        net(torch.randn(2, 3, size, size))
    return last_of_stages(net, seen)


@pytest.mark.parametrize("name", LAST)
def test_the_last_convolution_of_each_stage_of_our_networks(name):
    assert last(build(name, classes=10)) == LAST[name]


def test_a_network_without_named_stages_is_divided_where_its_map_shrinks():
    resnet = torchvision.models.resnet18(weights=None)
    assert last(resnet, 64) == ["conv1", *(f"layer{i}.1.conv2" for i in (1, 2, 3, 4))]
    squeezing = torchvision.models.efficientnet_b0(weights=None)  # 1 x 1 maps in between end no stage
    assert len(last(squeezing, 64)) == 5


def test_tapped_stages_are_the_stages_if_each_has_a_convolution():
    resnet = torchvision.models.resnet18(weights=None)
    assert last(Tapped(resnet, "layer2", "layer4")) == ["model.layer2.1.conv2", "model.layer4.1.conv2"]
    assert len(last(Tapped(resnet, "relu", "layer4"))) == 5


def test_convolutions_are_sorted_by_stage():
    found = by_stage(net := build("mobilenetv2", classes=10), list(convolutions(net)))
    assert list(found) == ["stem", *(f"stage {i}" for i in (1, 2, 3, 4)), "end"]
    assert found["stem"][0] == "stem.0"
    assert all(path.startswith("stages.3.") for path in found["stage 4"])
    assert [path for paths in found.values() for path in paths] == list(convolutions(net))
    assert by_stage(nn.Sequential(), ["0", "2"]) == {"network": ["0", "2"]}


def test_watching_changes_nothing_and_ends_with_the_block():
    net, images = build("resnet8", classes=10).eval(), torch.randn(2, 3, 16, 16)
    before = net(images)
    with watched(net, ["stem.0"]) as seen:
        assert torch.equal(net(images), before)
    with pytest.raises(RuntimeError), watched(net, ["stem.0"]):
        raise RuntimeError
    assert torch.equal(seen["stem.0"].output, net.stem[0](images))
    assert not any(module._forward_hooks for module in net.modules())


def test_what_was_seen_survives_an_in_place_layer():
    net, images = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)), torch.randn(2, 3, 5, 5)
    with watched(net, ["0"]) as seen:
        answer = net(images)
    assert torch.equal(seen["0"].output, net[0](images))
    (gradient,) = torch.autograd.grad(answer.sum(), [seen["0"].origin])
    assert torch.equal(gradient, (answer > 0).float())  # of what the convolution gave, before the ReLU


def test_a_convolution_that_runs_twice_is_refused_by_name():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.shared(self.shared(x))

    net, images = Twice(), torch.randn(2, 3, 5, 5)
    with pytest.raises(InputError, match="'shared' runs twice"), watched(net, ["shared"]):
        net(images)
    assert net(images).shape == images.shape


def test_supplies_end_with_the_block():
    conv = DynamicAdditiveConv(nn.Conv2d(3, 4, 1))
    net, images, link = nn.Sequential(conv), torch.randn(2, 3, 5, 5), torch.randn(2, 4, 5, 5)
    with supplied(net, ["0"], {"0": link}, temperature=9.0):
        assert torch.equal(net(images), conv(images, link=link, temperature=9.0))
    with supplied(net, ["0"], {}, temperature=1.0):
        assert torch.equal(net(images), conv(images))
    assert not conv._forward_pre_hooks
    assert not conv._forward_pre_hooks_with_kwargs


def test_residual_blocks_are_those_with_a_shortcut():
    assert residual_blocks(build("resnet8", classes=10)) == ["stages.0.0", "stages.1.0", "stages.2.0"]
    assert len(residual_blocks(torchvision.models.resnet18(num_classes=10))) == 8
    assert residual_blocks(build("vgg8", classes=10)) == []
