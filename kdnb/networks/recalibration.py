"""Computes the statistics of batch norm anew."""

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from kdnb.errors import InputError

Net = TypeVar("Net", bound=nn.Module)


def recalibrated(net: Net, batches: Iterable[tuple[Tensor, Tensor]]) -> Net:
    """A copy of a network with the batch norm statistics of the given batches.

    This is meant for one depth of a network whose depths share batch norm. There the running statistics
    mix those of all depths, and a copy can have its own:
    ``recalibrated(net.at_depth(14), data.train_batches(64))``. The weights do not change.

    Args:
        net: The network.

        batches: Pairs of images (B, 3, H, W) and labels (B,). The labels are not used. The images should be
            augmented as in training: the teacher for the shapes data loses four points of accuracy with the
            statistics of images that are neither flipped nor shifted.

    Returns:
        The copy, in eval mode. Its statistics are means over the batches, in which every batch counts the
        same.

    Raises:
        InputError: If there is no batch.

    Source:
        Yu and Huang, Universally Slimmable Networks, 2019, who call them post-statistics.
    """
    net = copy.deepcopy(net).eval()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # a mean over all batches, each counting the same
    weight, seen = next(net.parameters()), 0
    with torch.no_grad():
        for images, _ in batches:
            net(images.to(weight))
            seen += len(images)
    if not seen:
        raise InputError("There are no batches to gather statistics from: give at least one.")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
    return net
