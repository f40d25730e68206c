import copy

import pytest
import torch
from torch import nn

from kdnb.analysis import batch_norm_gap


def make() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.0), nn.ReLU(), nn.BatchNorm2d(4))
    net[1].running_var.fill_(4.0)
    return net


def test_the_gap_is_in_standard_deviations_of_ones_own():
    own = make()
    net = copy.deepcopy(own)
    net[1].running_mean.copy_(torch.tensor([2.0, 2.0, 2.0, -2.0]))
    net[1].running_var.fill_(100.0)
    assert batch_norm_gap(net, own) == {"1": pytest.approx(1.0), "3": 0.0}


def test_one_channel_counts_a_share():
    own = make()
    net = copy.deepcopy(own)
    net[3].running_mean[0] = 3.0
    assert batch_norm_gap(net, own)["3"] == pytest.approx(1.5, abs=1e-4)


def test_networks_are_not_changed():
    net, own = make(), make()
    before = [tensor.clone() for tensor in (*net.state_dict().values(), *own.state_dict().values())]
    batch_norm_gap(net, own)
    after = (*net.state_dict().values(), *own.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
