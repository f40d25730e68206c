"""Networks that report the output of every stage, and ``build``, which makes one by its name."""

from collections.abc import Callable
from functools import partial

import torch

from kdnb.errors import InputError, require_choice
from kdnb.networks.cost import Cost, cost
from kdnb.networks.densenet import DenseNet
from kdnb.networks.depth import DepthCost, DepthNet
from kdnb.networks.dynamic import dynamic_copy
from kdnb.networks.features import Features, Network
from kdnb.networks.from_torchvision import STAGES, TORCHVISION, from_torchvision
from kdnb.networks.googlenet import GoogLeNet
from kdnb.networks.imagenet_resnet import ImageNetResNet
from kdnb.networks.mobilenet import MobileNetV2
from kdnb.networks.recalibration import recalibrated
from kdnb.networks.renormalised import Renormalised
from kdnb.networks.resnet import ResNet
from kdnb.networks.shufflenet import ShuffleNetV2
from kdnb.networks.tapped import Tapped
from kdnb.networks.vgg import VGG
from kdnb.networks.wide_resnet import WideResNet

__all__ = [
    "DYNAMIC",
    "NETWORKS",
    "TORCHVISION",
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
    "Renormalised",
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

# The constructor of every network by its name. Each takes the number of classes.
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
    **{TORCHVISION + name: partial(from_torchvision, name) for name in STAGES},
}

# With this suffix a name stands for the ``dynamic_copy`` of the network: ECD's teacher, used on its own.
DYNAMIC = "-dynamic"


def plain_name(name: str) -> str:
    """The name of a network without the suffix ``-dynamic``.

    Args:
        name: A name from ``NETWORKS``, with or without the suffix.

    Returns:
        The name in ``NETWORKS``.

    Raises:
        InputError: If ``NETWORKS`` does not have the name.

    Example:
        >>> plain_name("resnet8-dynamic")
        'resnet8'
    """
    plain = name.removesuffix(DYNAMIC)
    require_choice("network", plain, NETWORKS)
    return plain


def build(name: str, *, classes: int, seed: int = 0) -> Network:
    """Builds a freshly initialised network.

    Args:
        name: A name from ``NETWORKS``, such as ``"resnet20"``. With the suffix ``-dynamic`` it stands for
            the ``dynamic_copy`` of that network, which is ECD's teacher used on its own.

        classes: The number of classes K.

        seed: The seed of the initial weights. The same seed gives the same weights. The global random state
            is left as it was.

    Returns:
        The network, in training mode and on the CPU.

    Raises:
        InputError: If the name is unknown or there are fewer than two classes.

    Example:
        >>> net = build("resnet8", classes=10)
        >>> features = net.features(torch.zeros(2, 3, 32, 32))
        >>> [tuple(stage.shape) for stage in features.maps]
        [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
        >>> features.logits.shape
        torch.Size([2, 10])
    """
    plain = plain_name(name)
    if classes < 2:
        raise InputError(f"A classifier needs at least 2 classes, found {classes}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = NETWORKS[plain](classes)
        return net if name == plain else dynamic_copy(net)
