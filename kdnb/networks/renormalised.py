"""A network that was trained with another normalisation of its images than it is shown now."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdnb.networks.features import Features, Network


class Renormalised(Network):
    """``network`` behind a change of normalisation: it sees every image as it was trained to.

    An image that is normalised as (pixels - mean) / std is brought to (pixels - own_mean) / own_std, so the
    logits are those that the network gives to images normalised its own way. Stages, classes and head are
    the network's. ``state_dict`` has the network's tensors under ``network.``.

    Args:
        network: A network that declares its stages. It is not copied.

        mean: Of every channel, by which the images are normalised that come in.

        std: Standard deviation of every channel, by which they are normalised.

        own_mean: The mean that the network was trained with.

        own_std: The standard deviation that the network was trained with.
    """

    def __init__(
        self,
        network: Network,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        own_mean: Sequence[float],
        own_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.network = network
        self.channels, self.reductions, self.classes = network.channels, network.reductions, network.classes
        given, own = (
            torch.tensor((m, s), dtype=torch.float64) for m, s in ((mean, std), (own_mean, own_std))
        )
        kind = next(network.parameters()).dtype
        self.register_buffer("scale", (given[1] / own[1]).to(kind)[:, None, None])  # (3, 1, 1)
        self.register_buffer("shift", ((given[0] - own[0]) / own[1]).to(kind)[:, None, None])  # (3, 1, 1)

    @property
    def head(self) -> nn.Linear:
        return self.network.head

    @property
    def stages(self) -> nn.ModuleList:
        """The stages of the network."""
        return self.network.stages

    def features(self, images: Tensor) -> Features:
        return self.network.features(self._own(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self._own(images))

    def _own(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) normalised the network's way."""
        return images * self.scale + self.shift
