import pytest
import torch
import torchvision
from torch import nn

from kdnb.errors import InputError
from kdnb.taps import tap


@pytest.fixture(scope="module")
def resnet18():
    return torchvision.models.resnet18(weights=None, num_classes=10).eval()


def test_a_torchvision_model_is_tapped_by_path(resnet18):
    with tap(resnet18, "layer2", "layer4.1.conv1") as seen:
        resnet18(torch.randn(2, 3, 64, 64))
    assert seen["layer2"].shape == (2, 128, 8, 8)
    assert seen["layer4.1.conv1"].shape == (2, 512, 2, 2)


def test_taps_are_gone_afterwards_also_after_an_error(resnet18):
    with pytest.raises(RuntimeError), tap(resnet18, "layer1"):
        raise RuntimeError
    with tap(resnet18, "layer1"):
        pass
    assert not any(module._forward_hooks for module in resnet18.modules())


def test_what_is_kept_survives_an_in_place_layer_behind_it():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    images = torch.randn(2, 3, 5, 5)
    with tap(model, "0") as seen:
        model(images)
    assert seen["0"].min() < 0
    assert torch.equal(seen["0"], model[0](images))


def test_the_graph_and_the_mode_are_kept(resnet18):
    resnet18.train()
    with tap(resnet18, "layer3") as seen:
        resnet18(torch.randn(2, 3, 64, 64))
    assert resnet18.training
    resnet18.eval()
    seen["layer3"].sum().backward()
    assert resnet18.conv1.weight.grad.abs().sum() > 0
    resnet18.zero_grad()


def test_an_unknown_path_names_the_nearest(resnet18):
    with pytest.raises(InputError, match=r"'layer5'\. Did you mean 'layer"), tap(resnet18, "layer5"):
        pass


def test_a_module_that_returns_no_tensor_is_named():
    model = nn.Sequential(nn.LSTM(3, 4))
    with pytest.raises(InputError, match="'0' returns a tuple"), tap(model, "0"):
        model(torch.randn(1, 2, 3))
