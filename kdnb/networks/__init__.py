"""Networks that declare their stages, and ``build`` to make one by name."""

from collections.abc import Callable
from functools import partial

import torch

from kdnb.errors import InputError, known
from kdnb.networks.cost import Cost, cost
from kdnb.networks.features import Features, Network
from kdnb.networks.resnet import ResNet

__all__ = ["NETWORKS", "Cost", "Features", "Network", "ResNet", "build", "cost"]

_WIDE = (32, 64, 128, 256)

NETWORKS: dict[str, Callable[[int], Network]] = {
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": partial(ResNet, 8, widths=_WIDE),
    "resnet32x4": partial(ResNet, 32, widths=_WIDE),
}


def build(name: str, *, classes: int, seed: int = 0) -> Network:
    """A freshly initialised network: the same seed gives the same weights, and the global random
    state is left as it was.

    Raises InputError for an unknown name or fewer than two classes.
    """
    known("network", name, NETWORKS)
    if classes < 2:
        raise InputError(f"A classifier needs at least 2 classes, found {classes}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](classes)
