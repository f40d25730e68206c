"""DDNN + EKD: one network runs at several depths, and its full depth teaches the others.

Source: Zhao et al., Embedded Knowledge Distillation in Depth-level Dynamic Neural Network, arXiv 2103.00793.
Equations, defaults and their sources are in ``kdnb/methods/README.md``, section DDNN + EKD.

The paper states that sub-nets of different depth share one set of weights, that every iteration trains all of
them, that a KL divergence ties the class posteriors of the sub-nets to those of the full net, and that
self-attention ties features of equal resolution. Only its abstract was at hand, and there is no public code.
The rest is ours or inferred: which blocks a sub-net has, batch norm for each depth, the weights, and that no
sub-net is a target of the full net. The temperature of 3 and the attention loss ``"zscore"`` are inferred
from EKD-FWSNet, a sister paper of the same authors with the same idea on another network. ``"unit"`` is the
loss of attention transfer, which the paper cites. No published number can be checked against this file.
"""

from typing import Literal

from torch import Tensor

from kdnb.errors import InputError, require_choice
from kdnb.functional import (
    at_least_float32,
    attention_map,
    kd_loss,
    label_loss,
    mean_squared_error,
    normalized_mse,
    positive_temperature,
    require_counts,
    require_weights,
    unit_vectors,
)
from kdnb.method import Method
from kdnb.methods.families.online import ramp_up
from kdnb.networks import DepthNet, Features, Network
from kdnb.networks.resnet import ResidualNetwork


class DDNN(Method):
    """Sub-nets of several depths learn in one network from the labels and from the full net.

    The loss terms are ``full/label`` and, for every sub-net, ``depthN/label``, ``depthN/soft`` (the KD loss
    from the full net's logits) and ``depthN/attention`` (the distance of attention maps). A sub-net's term
    with weight 0 is left out. The full net is detached as a target. Its convolutions are shared, so they
    receive the gradients of every sub-net.

    With all three weights 0 and shared batch norm, only the full net runs and learns, exactly as with labels
    only. The sub-nets that are evaluated then show what is left of a plain network when its depth is cut.

    Args:
        student: The full net, one of the ResNets of ``kdnb.networks``. It keeps its initial weights.

        depths: The sub-nets from deep to shallow. Each is a number of layers, such as 14, or a tuple with the
            number of blocks in every stage, such as (3, 3, 2).

        batch_norm: ``"private"`` gives each depth its own batch norms from the stage after its first early
            stop on. ``"shared"`` has one set for all depths.

        label_weight: Weight of the sub-nets' cross entropies. The full net's cross entropy has weight 1.

        soft_weight: Weight of the soft terms.

        attention_weight: Weight of the attention terms.

        attention: ``"zscore"`` compares maps with mean 0 and standard deviation 1 at the last stage.
            ``"unit"`` compares attention maps of unit norm and sums over the stages, as attention transfer
            does, which has a weight of 1000.

        temperature: Temperature of the soft terms. 1 is the literal class posterior.

        ramp_epochs: Number of epochs in which the soft and the attention terms rise to their full weight.

    Raises:
        InputError: If the network is not a ResNet of the package, if the depths do not fit it, if a weight is
            negative, if the temperature is not above 0, or if all weights are 0 with private batch norm,
            which would never learn. In training, if a map has one position.

    Source:
        Zhao et al., 2021, the abstract; the fact sheet, section DDNN + EKD. ``data/README.md`` tells from
        which trials the defaults were chosen.
    """

    default_student = "resnet20"

    def __init__(
        self,
        student: Network,
        *,
        depths: tuple[int | tuple[int, ...], ...] = (14, 8),
        batch_norm: str = "private",
        label_weight: float = 1.0,
        soft_weight: float = 1.0,
        attention_weight: float = 1.0,
        attention: Literal["unit", "zscore"] = "zscore",
        temperature: float = 3.0,
        ramp_epochs: int = 0,
    ) -> None:
        super().__init__()
        require_choice("attention", attention, ATTENTION)
        weights = {
            "label_weight": label_weight,
            "soft_weight": soft_weight,
            "attention_weight": attention_weight,
        }
        require_weights(**weights)
        self.embedded = any(weights.values())
        if batch_norm == "private" and not self.embedded:
            raise InputError(
                "With label_weight, soft_weight and attention_weight all 0 the sub-nets' own batch norms "
                'would never learn. To see a plain network cut, choose batch_norm="shared".'
            )
        self.label_weight, self.soft_weight = label_weight, soft_weight
        self.attention_weight, self.temperature = attention_weight, positive_temperature(temperature)
        self.attention_loss = ATTENTION[attention]
        require_counts(ramp_epochs=ramp_epochs)
        self.ramp_epochs = ramp_epochs
        self.net = DepthNet(student, depths, batch_norm=batch_norm)

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        if not self.embedded:
            return {"full/label": label_loss(self.net(images), labels)}
        full, *subnets = self.net.features_at_all(images).values()
        terms = {"full/label": label_loss(full.logits, labels)}
        ramp = ramp_up(epoch, self.ramp_epochs)
        for name, subnet in zip(self._names(), subnets, strict=True):
            if self.label_weight:
                terms[f"{name}/label"] = self.label_weight * label_loss(subnet.logits, labels)
            if self.soft_weight:
                soft = kd_loss(subnet.logits, full.logits.detach(), self.temperature)
                terms[f"{name}/soft"] = ramp * self.soft_weight * soft
            if self.attention_weight:
                distance = self.attention_loss(subnet, full)
                terms[f"{name}/attention"] = ramp * self.attention_weight * distance
        return terms

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The logits (B, K) at every depth: ``"full"``, ``"depth14"`` and so on."""
        full, *subnets = self.net.features_at_all(images).values()
        named = zip(self._names(), subnets, strict=True)
        return {"full": full.logits} | {name: subnet.logits for name, subnet in named}

    def export(self) -> ResidualNetwork:
        """The full net. ``net.export(14)`` gives a sub-net as a plain network."""
        return self.net.full

    def kept_beside(self) -> dict[str, DepthNet]:
        """All depths in one network, as ``"depths"``.

        ``load_network("runs/ddnn-.../depths.safetensors").net`` is the ``DepthNet`` again.
        """
        return {"depths": self.net}

    def _names(self) -> list[str]:
        return [f"depth{depth}" for depth in self.net.depths[1:]]


def embedded_attention_loss(subnet: Features, full: Features) -> Tensor:
    """Sum over the stages of the mean squared difference of unit attention maps.

    Depths of one network have maps of equal resolution at the end of every stage. The full net's maps are
    targets and get no gradient.

    Args:
        subnet: The sub-net's features.

        full: The full net's features of the same images.

    Returns:
        A scalar. It is 0 for equal maps.

    Raises:
        InputError: If a map has one position, because its normalised attention is always 1.
    """
    distances = []
    for own, target in zip(subnet.maps, full.maps, strict=True):
        _require_positions(own)
        distances.append(normalized_mse(attention_map(own), attention_map(target.detach())))
    return sum(distances)


def embedded_zscore_loss(subnet: Features, full: Features) -> Tensor:
    """Mean squared difference of the standardised maps of the last stage.

    The full net's map is a target and gets no gradient.

    Args:
        subnet: The sub-net's features.

        full: The full net's features of the same images.

    Returns:
        A scalar. It is 0 for equal maps, and at most 4.

    Raises:
        InputError: If a map has one position, which has no standard deviation.

    Source:
        EKD-FWSNet, by the authors of DDNN + EKD. That it holds for DDNN is inferred.

    Differs:
        There the target is the mean of all members' maps and is not detached. In DDNN the full net is the
        target. A map that is constant has no standard deviation; here it becomes 0.
    """
    _require_positions(subnet.maps[-1])
    return mean_squared_error(standardised(subnet.maps[-1]), standardised(full.maps[-1].detach()))


def standardised(maps: Tensor) -> Tensor:
    """The sum over the channels, with mean 0 and standard deviation 1 over the positions of each image.

    Args:
        maps: The maps of a stage, (B, C, H, W).

    Returns:
        The standardised maps (B, H W), in float32 or float64. The standard deviation is the unbiased one.
    """
    total = at_least_float32(maps).sum(1).flatten(1)  # (B, H W)
    centred = total - total.mean(1, keepdim=True)
    return unit_vectors(centred) * (total.shape[1] - 1) ** 0.5  # the norm is the std times sqrt(n - 1)


def _require_positions(maps: Tensor) -> None:
    if maps[0, 0].numel() == 1:
        raise InputError(
            "A map has one position, so its attention is always 1 and nothing is transferred. Use "
            "larger images, or attention_weight=0."
        )


ATTENTION = {"unit": embedded_attention_loss, "zscore": embedded_zscore_loss}
