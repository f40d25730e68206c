"""Networks that declare their stages, and ``build`` to make one by name."""

from collections.abc import Callable
from functools import partial

import torch

from kdnb.errors import InputError, require_choice
from kdnb.networks.cost import Cost, cost
from kdnb.networks.densenet import DenseNet
from kdnb.networks.depth import DepthCost, DepthNet
from kdnb.networks.dynamic import dynamic_copy
from kdnb.networks.features import Features, Network
from kdnb.networks.googlenet import GoogLeNet
from kdnb.networks.imagenet_resnet import ImageNetResNet
from kdnb.networks.mobilenet import MobileNetV2
from kdnb.networks.recalibration import recalibrated
from kdnb.networks.resnet import ResNet
from kdnb.networks.shufflenet import ShuffleNetV2
from kdnb.networks.tapped import Tapped
from kdnb.networks.vgg import VGG
from kdnb.networks.wide_resnet import WideResNet

__all__ = [
    "DYNAMIC",
    "NETWORKS",
    "VGG",
    "Cost",
    "DenseNet",
    "DepthCost",
    "DepthNet",
    "Features",
    "GoogLeNet",
    "ImageNetResNet",
    "MobileNetV2",
    "Network",
    "ResNet",
    "ShuffleNetV2",
    "Tapped",
    "WideResNet",
    "build",
    "cost",
    "plain_name",
    "recalibrated",
]

_X4 = (32, 64, 128, 256)

NETWORKS: dict[str, Callable[[int], Network]] = {
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": partial(ResNet, 8, widths=_X4),
    "resnet32x4": partial(ResNet, 32, widths=_X4),
    **{f"resnet{depth}": partial(ImageNetResNet, depth) for depth in (18, 34, 50, 101)},
    **{f"wrn_{depth}_{width}": partial(WideResNet, depth, width) for depth in (16, 40) for width in (1, 2)},
    **{f"vgg{depth}": partial(VGG, depth) for depth in (8, 11, 13, 16, 19)},
    "mobilenetv2": MobileNetV2,
    "shufflenetv2": ShuffleNetV2,
    "densenet_40_12": partial(DenseNet, 40, 12),
    "googlenet": GoogLeNet,
}

DYNAMIC = "-dynamic"  # behind a name: the network with every convolution made dynamic, as ECD's teacher


def plain_name(name: str) -> str:
    """The entry of NETWORKS that ``name`` is built from: itself, or "resnet8" of "resnet8-dynamic".

    Raises InputError for an unknown name.
    """
    plain = name.removesuffix(DYNAMIC)
    require_choice("network", plain, NETWORKS)
    return plain


def build(name: str, *, classes: int, seed: int = 0) -> Network:
    """A freshly initialised network: the same seed gives the same weights, and the global random
    state is left as it was.

    name: of NETWORKS, or with "-dynamic" behind it for the ``dynamic_copy`` of that network, which is
    ECD's teacher as a network of its own.
    Raises InputError for an unknown name or fewer than two classes.
    """
    plain = plain_name(name)
    if classes < 2:
        raise InputError(f"A classifier needs at least 2 classes, found {classes}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = NETWORKS[plain](classes)
        return net if name == plain else dynamic_copy(net)
