"""What a network costs to store and to run."""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    parameters: int
    macs: int  # multiply-accumulates of convolutions and linear layers, for one image


def cost(net: nn.Module, *, size: int = 32) -> Cost:
    """Parameters, and MACs for one (3, size, size) image, counted without running on real memory."""
    ghost = copy.deepcopy(net).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(torch.empty(1, 3, size, size, device="meta"))
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Cost(parameters, counter.get_total_flops() // 2)
