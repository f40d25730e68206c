"""DDNN + EKD: one network runs at several depths, and its full depth teaches the others.

Source: Embedded Knowledge Distillation in Depth-level Dynamic Neural Network (arXiv 2103.00793).
Stated by the paper: sub-nets of different depth share one set of weights; every iteration trains all of
them; a KL divergence ties the sub-nets' class posteriors to the full net's, and self-attention ties
features of one resolution from different depths.
Ours, for only the abstract was at hand and there is no public code: which blocks a sub-net has, batch
norm for each depth, the form of the attention loss (attention transfer, which the paper cites),
temperature, weights, and that the full net is not pulled to its sub-nets. No published number can be
checked against this file.
"""

from torch import Tensor

from kdnb.errors import InputError
from kdnb.functional import (
    attention_map,
    kd_loss,
    label_loss,
    normalized_mse,
    positive_temperature,
    require_weights,
)
from kdnb.method import Method
from kdnb.networks import DepthNet, Features, Network
from kdnb.networks.resnet import ResidualNetwork


class DDNN(Method):
    """Sub-nets of several depths learn in one network from the labels and from the full net.

    Minimises CE(full) + sum over the sub-nets of [label_weight CE + soft_weight T^2 KL(full || sub-net) +
    attention_weight times the distance of unit attention maps, summed over the stages]. The full net
    learns from its own labels only, though its convolutions feel every sub-net's losses: they are shared.

    student: the full net, one of kdnb's ResNets, with the initial weights that any other method gives
    it. depths: of the sub-nets, from deep to shallow, each as a number of layers or as its blocks in
    every stage. batch_norm: "private" to each depth behind its first early stop, or
    "shared". temperature: 1 is the literal "class posterior"; the CIFAR benchmarks' 4, weighed by its
    square, held the full net back in short training. attention_weight: at 100 the term pulls about as hard
    as the labels before training, on shapes, and holds them back; attention transfer's habit is 1000. All
    defaults are ours; data/README.md tells what they were chosen from.

    Controls: soft_weight=0 or attention_weight=0 leave a term out. With all three weights 0 and shared
    batch norm only the full net runs and learns, exactly as with labels only, and the sub-nets that
    are evaluated are what is left of a plain network when its depth is cut.

    Raises InputError for unfit depths or networks, negative weights, a temperature not above 0, all
    weights 0 with private batch norm, which would never learn, and in training for a map of one position.
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
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
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
        self.net = DepthNet(student, depths, batch_norm=batch_norm)

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        if not self.embedded:
            return {"full/label": label_loss(self.net(images), labels)}
        full, *subnets = self.net.features_at_all(images).values()
        terms = {"full/label": label_loss(full.logits, labels)}
        for name, subnet in zip(self._names(), subnets, strict=True):
            if self.label_weight:
                terms[f"{name}/label"] = self.label_weight * label_loss(subnet.logits, labels)
            if self.soft_weight:
                soft = kd_loss(subnet.logits, full.logits.detach(), self.temperature)
                terms[f"{name}/soft"] = self.soft_weight * soft
            if self.attention_weight:
                terms[f"{name}/attention"] = self.attention_weight * embedded_attention_loss(subnet, full)
        return terms

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) at every depth: "full", "depth14", ..."""
        full, *subnets = self.net.features_at_all(images).values()
        named = zip(self._names(), subnets, strict=True)
        return {"full": full.logits} | {name: subnet.logits for name, subnet in named}

    def export(self) -> ResidualNetwork:
        """The full net; ``net.export(14)`` gives a sub-net."""
        return self.net.full

    def kept_beside(self) -> dict[str, DepthNet]:
        """All depths: ``load_network("runs/ddnn-.../depths.safetensors").net`` is the DepthNet again."""
        return {"depths": self.net}

    def _names(self) -> list[str]:
        return [f"depth{depth}" for depth in self.net.depths[1:]]


def embedded_attention_loss(subnet: Features, full: Features) -> Tensor:
    """Mean squared difference of unit attention maps, summed over the stages: a scalar, 0 for equal maps.

    Depths of one network have maps of the same resolution at the end of every stage. The full net's
    are targets: no gradient reaches them. Raises InputError for maps of one position, whose attention
    is always 1.
    """
    distances = []
    for own, target in zip(subnet.maps, full.maps, strict=True):
        if own[0, 0].numel() == 1:
            raise InputError(
                "A map has one position, so its attention is always 1 and nothing is transferred. Use "
                "larger images, or attention_weight=0."
            )
        distances.append(normalized_mse(attention_map(own), attention_map(target.detach())))
    return sum(distances)
