"""What a network costs to store and to run."""

import copy
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    parameters: int
    macs: int  # multiply-accumulates of convolutions and linear layers, for one image


def cost(net: nn.Module, *, size: int = 32, channels: int = 3) -> Cost:
    """Parameters, and MACs for one image or map (channels, size, size), counted without running on
    real memory. A transposed convolution is counted by its input's positions."""
    ghost = copy.deepcopy(net).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(torch.empty(1, channels, size, size, device="meta"))
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Cost(parameters, counter.get_total_flops() // 2)


def forward_times(
    nets: Sequence[nn.Module], *, size: int = 32, batch: int = 1, rounds: int = 9
) -> list[float]:
    """Milliseconds that each network takes, in eval mode on its device, for ``batch`` images.

    Medians of rounds that alternate between the networks, after one that warms up; of copies, so that
    the networks are not touched.
    """
    copies = [copy.deepcopy(net).eval() for net in nets]
    like = next(copies[0].parameters())
    images = torch.zeros(batch, 3, size, size, device=like.device, dtype=like.dtype)
    machine = torch.get_device_module(like.device)
    times: list[list[float]] = [[] for _ in nets]
    with torch.inference_mode():
        for _ in range(1 + rounds):
            for net, taken in zip(copies, times, strict=True):
                machine.synchronize()
                start = perf_counter()
                net(images)
                machine.synchronize()
                taken.append(1000 * (perf_counter() - start))
    return [median(taken[1:]) for taken in times]
