"""What a network reports of a forward pass: the outputs of its stages, its embedding and its logits."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """The results of one forward pass, from shallow to deep.

    Attributes:
        stem: The output of the layers before the first stage, (B, C, H, W). It is not one of ``maps``,
            because few methods use it (FSP does).

        maps: The outputs of the stages, (B, C, H, W) each. Distillation methods compare these.

        embedding: The vector that enters the last linear layer, (B, D).

        logits: The logits, (B, K).

        final: The map whose mean over positions is the embedding, (B, D, H, W).
    """

    stem: Tensor
    maps: tuple[Tensor, ...]
    embedding: Tensor
    logits: Tensor
    final: Tensor


class Network(nn.Module):
    """The base class of all networks. It declares the shapes of the maps before any image is seen.

    A subclass sets the attributes and writes ``features``. See kdnb/methods/README.md, section Networks.

    Attributes:
        channels: The number of channels of each map.

        reductions: The size of the input divided by the size of the map, for each map.

        classes: The number of classes K.

        head: The linear layer that turns the embedding (B, D) into logits (B, K).
    """

    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    classes: int
    head: nn.Linear

    def features(self, images: Tensor) -> Features:
        """Runs the network once and returns everything that a distillation method may use.

        Args:
            images: The images, (B, 3, H, W).

        Returns:
            The outputs of all stages, the embedding and the logits.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Runs the network.

        Args:
            images: The images, (B, 3, H, W).

        Returns:
            The logits, (B, K).
        """
        return self.features(images).logits


def staged(
    stem: Tensor, stages: Iterable[nn.Module], head: nn.Linear, last: nn.Module | None = None
) -> Features:
    """The usual forward pass after the stem: the stages, a mean over positions, and a linear layer.

    Args:
        stem: The output of the stem, (B, C, H, W).

        stages: The stages, from shallow to deep.

        head: The linear layer that turns the embedding (B, D) into logits (B, K).

        last: A module between the last stage and the mean, such as a last batch norm and ReLU, or None.

    Returns:
        The features of the pass.
    """
    x, maps = stem, []
    for stage in stages:
        maps.append(x := stage(x))
    return ended(stem, maps, head, last)


def ended(stem: Tensor, maps: Iterable[Tensor], head: nn.Linear, last: nn.Module | None = None) -> Features:
    """The end of the usual forward pass, after all stages.

    Args:
        stem: The output of the stem, (B, C, H, W).

        maps: The outputs of the stages, (B, C, H, W) each.

        head: The linear layer that turns the embedding (B, D) into logits (B, K).

        last: A module between the last stage and the mean, such as a last batch norm and ReLU, or None.

    Returns:
        The features of the pass.
    """
    maps = tuple(maps)
    final = maps[-1] if last is None else last(maps[-1])
    embedding = final.sum((2, 3)) / final[0, 0].numel()  # (B, D)
    return Features(stem, maps, embedding, head(embedding), final)


def initialise_convolutions(net: nn.Module) -> None:
    """Draws new weights for every convolution, in place.

    The weights are normal with mean 0 and standard deviation sqrt(2 / (k k C_out)), where k is the size of
    the kernel. A depthwise convolution is treated alike: C_out counts all of its channels, not one group.

    Args:
        net: The network, or any module.

    Source:
        He et al., Delving Deep into Rectifiers, 2015.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
