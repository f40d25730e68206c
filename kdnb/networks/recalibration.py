"""Batch norm statistics, gathered anew."""

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from kdnb.errors import InputError

Net = TypeVar("Net", bound=nn.Module)


def recalibrated(net: Net, batches: Iterable[tuple[Tensor, Tensor]]) -> Net:
    """A copy of ``net`` whose batch norms' statistics are the means over ``batches``, in eval mode.

    For a depth of a network whose depths share batch norm: the running statistics mix all depths',
    a copy can have its own: ``recalibrated(net.at_depth(14), data.train_batches(64))``. Show it batches
    as in training, augmented: the shapes teacher loses four points with the statistics of pictures
    that are neither flipped nor shifted. Labels are not looked at, weights do not change. Raises
    InputError without a batch.
    Source: Yu and Huang, Universally Slimmable Networks, 2019, which calls them post-statistics.
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
