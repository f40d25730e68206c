import pytest
import torch

from kdnb.errors import InputError
from kdnb.networks import DepthNet, build, recalibrated


def batches(count: int, size: int = 16) -> list:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, size, size, generator=generator) + 1, torch.arange(8)) for _ in range(count)]


def test_statistics_are_the_means_over_the_batches():
    net, shown = build("resnet8", classes=5), batches(3)
    found = recalibrated(net, shown)
    maps = [net.stem[0](images) for images, _ in shown]
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variance = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
    torch.testing.assert_close(found.stem[1].running_mean, mean)
    torch.testing.assert_close(found.stem[1].running_var, variance)
    assert not any(module.training for module in found.modules())
    assert found.stem[1].momentum == 0.1


def test_later_layers_see_what_training_sees():
    net, shown = build("resnet20", classes=5).train(), batches(1)
    expected = net(shown[0][0])
    found = recalibrated(net, shown)(shown[0][0])
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)  # unbiased variances in eval mode


def test_the_network_itself_and_other_depths_stay_as_they_are():
    net = DepthNet(build("resnet20", classes=5), (14, 8), batch_norm="shared")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    recalibrated(net.at_depth(14), batches(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training
    assert net.full.stem[1].momentum == 0.1


def test_weights_are_kept():
    net = build("resnet8", classes=5)
    found = recalibrated(net, batches(2))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), found.parameters(), strict=True))


def test_shared_statistics_mix_depths_and_a_depth_can_have_its_own():
    """Why it is there: in eval mode a cut network is off by the statistics of deeper ones."""
    net, shown = DepthNet(build("resnet20", classes=5), (8,), batch_norm="shared").train(), batches(1)
    for _ in range(60):
        net.features_at_all(shown[0][0])
    trained = net.at_depth(8)(shown[0][0])
    net.eval()
    mixed = (net.at_depth(8)(shown[0][0]) - trained).abs().mean()
    own = (recalibrated(net.at_depth(8), shown)(shown[0][0]) - trained).abs().mean()
    assert own < 0.5 * mixed


def test_no_batches_are_refused():
    with pytest.raises(InputError, match="no batches"):
        recalibrated(build("resnet8", classes=5), [])
