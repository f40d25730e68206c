"""A network that sees images normalised its own way, whatever way they come in."""

import copy
import pickle

import pytest
import torch

from kdnb.method import frozen
from kdnb.methods import KD, SRRL, AttentionTransfer, FitNet, SemCKD
from kdnb.networks import Network, Renormalised, build, cost
from kdnb.testing import contract

GIVEN = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.1)}
OWN = {"own_mean": (0.1, 0.6, 0.45), "own_std": (0.5, 0.05, 0.3)}


def normalised(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    mean, std = (torch.tensor(values, dtype=pixels.dtype)[:, None, None] for values in (mean, std))
    return (pixels - mean) / std


def make(seed: int = 1, **changes) -> Renormalised:
    return Renormalised(build("resnet14", classes=10, seed=seed), **(GIVEN | OWN | changes))


@pytest.mark.parametrize("training", [False, True])
def test_it_answers_as_the_network_does_to_images_normalised_its_own_way(training):
    pixels = torch.rand(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = build("resnet14", classes=10, seed=1).double().train(training)
    net = Renormalised(copy.deepcopy(plain), **GIVEN, **OWN).train(training)
    shown, own = normalised(pixels, **GIVEN), normalised(pixels, OWN["own_mean"], OWN["own_std"])
    expected, found = plain.features(own), net.features(shown)
    for one, other in zip((*expected.maps, *expected[2:]), (*found.maps, *found[2:]), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net(shown), plain(own), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(plain(shown), plain(own)), "or the test could not fail"


def test_its_stages_are_those_of_the_network():
    net = make()
    assert net.stages is net.network.stages


def test_in_float32_it_is_as_near_as_float32_allows():
    pixels = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    net = make().eval()
    expected = net.network(normalised(pixels, OWN["own_mean"], OWN["own_std"]))
    torch.testing.assert_close(net(normalised(pixels, **GIVEN)), expected, rtol=1e-4, atol=1e-4)


def test_it_shows_the_networks_stages():
    net = make()
    assert isinstance(net, Network)
    assert (net.channels, net.reductions, net.classes) == ((16, 32, 64), (1, 2, 4), 10)
    assert net.head is net.network.head
    assert cost(net) == cost(net.network)


@pytest.mark.parametrize("kind", [KD, SRRL, AttentionTransfer, FitNet])
def test_it_teaches(kind, batch):
    contract(kind(build("resnet8", classes=10), make()), *batch)


def test_it_teaches_semckd(batch):
    contract(SemCKD(build("resnet8", classes=10), make(), batch_size=8), *batch)


def test_the_student_exported_is_plain(batch):
    method = KD(build("resnet8", classes=10), make())
    assert method.export().state_dict().keys() == build("resnet8", classes=10).state_dict().keys()


def test_its_state_is_whole_and_fits_another(batch):
    net, other = make(seed=1), make(seed=2, mean=(0, 0, 0), std=(1, 1, 1))
    plain = build("resnet14", classes=10).state_dict()
    assert net.state_dict().keys() == {"scale", "shift", *(f"network.{name}" for name in plain)}
    other.load_state_dict(net.state_dict())
    assert torch.equal(net.eval()(batch[0]), other.eval()(batch[0]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_frozen_and_copied_it_stays_frozen(copied, batch):
    net = frozen(make())
    twin = copied(net)
    assert isinstance(twin, Renormalised)
    assert twin is not net
    twin.train()
    assert not any(module.training for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert torch.equal(twin(batch[0]), net(batch[0]))


def test_it_keeps_channels_last(batch):
    images = batch[0].contiguous(memory_format=torch.channels_last)
    assert make()._own(images).is_contiguous(memory_format=torch.channels_last)
