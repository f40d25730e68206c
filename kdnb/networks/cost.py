"""Counts the parameters and operations of a network, and measures its time."""

import copy
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
        parameters: The number of parameters.

        macs: Multiply-accumulate operations of the convolutions and linear layers for one image.
    """

    parameters: int
    macs: int


def cost(net: nn.Module, *, size: int = 32, channels: int = 3) -> Cost:
    """Counts parameters and multiply-accumulate operations.

    A copy of the network runs on PyTorch's meta device, which computes shapes only.

    Args:
        net: The network, or any module that takes one tensor (1, channels, size, size).

        size: The height and width of the input in pixels.

        channels: The number of channels of the input: 3 for images, or the width of a map.

    Returns:
        The counts. A transposed convolution is counted by the positions of its input.

    Example:
        >>> from kdnb.networks import build
        >>> cost(build("resnet20", classes=100))
        Cost(parameters=278324, macs=40818944)
    """
    on_meta = copy.deepcopy(net).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(torch.empty(1, channels, size, size, device="meta"))
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Cost(parameters, counter.get_total_flops() // 2)


def forward_times(
    nets: Sequence[nn.Module], *, size: int = 32, batch: int = 1, rounds: int = 9
) -> list[float]:
    """Measures the time of one forward pass of each network in eval mode.

    Every round times all networks one after another, so that a slow moment of the machine does not fall on
    one of them alone. A first round warms up and is not counted. Copies are timed, so that the networks do
    not change.

    Args:
        nets: The networks. All are on the device of the first one.

        size: The height and width of the images in pixels.

        batch: How many images one forward pass takes.

        rounds: How many rounds are counted.

    Returns:
        The median time of each network in milliseconds.
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
