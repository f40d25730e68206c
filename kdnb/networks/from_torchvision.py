"""ImageNet networks of torchvision, with their stages named. They are fresh: no weights are downloaded."""

from torchvision import models

from kdnb.networks.tapped import Tapped

RESNET = ("layer1", "layer2", "layer3", "layer4")
# The modules whose outputs are the maps, at 1/4, 1/8, 1/16 and 1/32 of the image. Those of MobileNetV2 are
# the last bottlenecks of their resolution, and at the end the convolution whose map is averaged.
STAGES = {
    "resnet18": RESNET,
    "resnet34": RESNET,
    "resnet50": RESNET,
    "mobilenet_v2": ("features.3", "features.6", "features.13", "features.18"),
}
TORCHVISION = "torchvision-"  # tells them from the package's own networks of similar names
SIZE = 224  # of the images they are made for


def from_torchvision(name: str, classes: int) -> Tapped:
    """A network of torchvision with fresh weights.

    Args:
        name: A name of ``torchvision.models`` that ``STAGES`` has.

        classes: The number of classes K.

    Returns:
        The network.

    Example:
        >>> from_torchvision("mobilenet_v2", 10).channels
        (24, 32, 96, 1280)
    """
    return Tapped(getattr(models, name)(weights=None, num_classes=classes), *STAGES[name], size=SIZE)
