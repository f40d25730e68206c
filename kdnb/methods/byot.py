"""BYOT, be your own teacher: exits after every stage learn from the network's own last layer.

Source: Zhang et al., Be Your Own Teacher, ICCV 2019. The layers of the exits and the defaults are those of an
unofficial implementation. Equations, defaults and reported numbers are in ``kdnb/methods/README.md``, section
BYOT.
"""

from torch import Tensor, nn

from kdnb.functional import kd_loss, label_loss, mean_squared_error, positive_temperature, require_weights
from kdnb.method import Method
from kdnb.methods.families.distillation import require_stages
from kdnb.networks import Network


class BYOT(Method):
    """Exits after the shallow stages learn from the labels and from the deepest classifier.

    The loss terms are ``full/label`` and, for every exit, ``exitN/label``, ``exitN/soft`` (the KD loss from
    the full network's logits) and ``exitN/feature`` (the squared distance of the embeddings). A soft or
    feature term with weight 0 is left out. The full network is the target of the exits and is detached there.
    Its early stages receive the gradients of the exits. ``export`` returns the network without the exits.

    Args:
        student: A network that shows its stages.

        label_weight: Weight of every cross entropy. It is 1 - a with a = 0.1 in the unofficial code.

        soft_weight: Weight of the soft terms. It is a in the unofficial code.

        feature_weight: Weight of the feature terms. The unofficial code has 1e-6 for a sum over the batch.
            The default is 128 times that, for a mean over the batch, as if its batches had 128 images.

        temperature: Temperature of the soft terms.

    Raises:
        InputError: If the network does not show its stages, if a weight is negative, or if the temperature is
            not above 0.

    Source:
        Zhang et al., 2019; the fact sheet, section BYOT.

    Differs:
        The soft term is a KL divergence, as in the paper. The unofficial code has a cross entropy of the same
        gradient. The squared distance is between pooled vectors, which is our reading, and a mean over the
        batch, so that its weight does not depend on the batch size. The unofficial code masks entries where
        neither vector is above 0. Behind a ReLU the mask changes nothing, and it is left out.
    """

    def __init__(
        self,
        student: Network,
        *,
        label_weight: float = 0.9,
        soft_weight: float = 0.1,
        feature_weight: float = 1.28e-4,
        temperature: float = 3.0,
    ) -> None:
        super().__init__()
        require_stages(student=student)
        require_weights(label_weight=label_weight, soft_weight=soft_weight, feature_weight=feature_weight)
        self.label_weight, self.soft_weight = label_weight, soft_weight
        self.feature_weight, self.temperature = feature_weight, positive_temperature(temperature)
        self.student = student
        *shallow, deepest = zip(student.channels, student.reductions, strict=True)
        self.exits = nn.ModuleList(
            Exit(channels, student.head.in_features, deepest[1] // reduction, student.classes)
            for channels, reduction in shallow
        )

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        full = self.student.features(images)
        terms = {"full/label": self.label_weight * label_loss(full.logits, labels)}
        for number, (shallow, map) in enumerate(zip(self.exits, full.maps, strict=False), start=1):
            embedding, name = shallow.embedding(map), f"exit{number}"
            logits = shallow.head(embedding)
            terms[f"{name}/label"] = self.label_weight * label_loss(logits, labels)
            if self.soft_weight:
                soft = kd_loss(logits, full.logits.detach(), self.temperature)
                terms[f"{name}/soft"] = self.soft_weight * soft
            if self.feature_weight:
                distance = squared_distance(embedding, full.embedding.detach())
                terms[f"{name}/feature"] = self.feature_weight * distance
        return terms

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The logits (B, K) of the full network, ``"full"``, and of the exits, ``"exit1"`` and so on."""
        full = self.student.features(images)
        exits = zip(self.exits, full.maps, strict=False)
        return {"full": full.logits} | {
            f"exit{number}": shallow(map) for number, (shallow, map) in enumerate(exits, start=1)
        }

    def export(self) -> nn.Module:
        return self.student


class Exit(nn.Module):
    """A classifier behind one stage: a bottleneck, a mean over the positions, and a linear layer.

    It maps (B, C, H, W) to logits (B, K). The bottleneck is a 1 x 1 convolution to C // 4 channels, a
    convolution whose kernel and stride equal ``reduction``, and a 1 x 1 convolution to ``width`` channels.
    Batch norm and ReLU stand behind each.

    Args:
        channels: C, the channels of the stage.

        width: The channels of the last stage.

        reduction: Height of this stage's map over height of the last stage's map.

        classes: K.
    """

    def __init__(self, channels: int, width: int, reduction: int, classes: int) -> None:
        super().__init__()
        narrow = max(1, channels // 4)
        self.bottleneck = nn.Sequential(
            *_conv_bn_relu(nn.Conv2d(channels, narrow, 1, bias=False)),
            *_conv_bn_relu(nn.Conv2d(narrow, narrow, reduction, stride=reduction, bias=False)),
            *_conv_bn_relu(nn.Conv2d(narrow, width, 1, bias=False)),
        )
        self.head = nn.Linear(width, classes)

    def embedding(self, map: Tensor) -> Tensor:
        """The pooled vector (B, D) that enters the exit's head."""
        return self.bottleneck(map).mean((2, 3))

    def forward(self, map: Tensor) -> Tensor:
        return self.head(self.embedding(map))


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """The squared Euclidean distance of two vectors, as a mean over the batch.

    Args:
        a: (B, D).

        b: (B, D).

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> import torch
        >>> squared_distance(torch.zeros(2, 3), torch.ones(2, 3)).item()
        3.0
    """
    return a.shape[1] * mean_squared_error(a, b)


def _conv_bn_relu(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()
