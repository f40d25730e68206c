"""What a network shows of itself: its stages, its embedding, its logits."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """One forward pass, from shallow to deep.

    ``maps`` are the stage outputs that distillation methods compare. ``stem`` comes before the
    first stage; few methods use it (FSP), so it stands apart.
    """

    stem: Tensor  # (B, C, H, W)
    maps: tuple[Tensor, ...]  # (B, C, H, W) each
    embedding: Tensor  # (B, D), the pooled vector that enters the head
    logits: Tensor  # (B, K)
    final: Tensor  # (B, D, H, W), the map that is averaged to the embedding


class Network(nn.Module):
    """A network that declares its stages, so that nobody runs it to learn a shape.

    channels: channels of each map. reductions: input size / map size, one a map.
    classes: K, the number of logits. head: the linear layer from embedding to logits.
    """

    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    classes: int
    head: nn.Linear

    def features(self, images: Tensor) -> Features:
        """Everything a distillation method may look at, in one pass over ``images`` (B, 3, H, W)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.features(images).logits


def staged(
    stem: Tensor, stages: Iterable[nn.Module], head: nn.Linear, last: nn.Module | None = None
) -> Features:
    """The usual pass behind the stem: stage by stage, then ``last`` where there is one, a mean over
    the positions, and the head."""
    x, maps = stem, []
    for stage in stages:
        maps.append(x := stage(x))
    return ended(stem, maps, head, last)


def ended(stem: Tensor, maps: Iterable[Tensor], head: nn.Linear, last: nn.Module | None = None) -> Features:
    """The end of the usual pass, when the maps of all stages are there."""
    maps = tuple(maps)
    final = maps[-1] if last is None else last(maps[-1])
    embedding = final.mean((2, 3))  # (B, D)
    return Features(stem, maps, embedding, head(embedding), final)


def initialise_convolutions(net: nn.Module) -> None:
    """Draws the weights of every convolution from N(0, sqrt(2 / (k k C_out))), in place; of a depthwise
    one too, whose fan-out counts as if it were dense. Source: He et al., 2015."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
