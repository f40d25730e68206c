"""BYOT, be your own teacher: exits after every stage learn from the network's own last layer.

Source: Zhang et al., Be Your Own Teacher, ICCV 2019; the exits' layers and the defaults as in an unofficial
implementation (methods.md, section 8).
"""

from torch import Tensor, nn

from kdnb.functional import kd_loss, label_loss, mean_squared_error, positive_temperature, require_weights
from kdnb.method import Method
from kdnb.methods.families.distillation import require_stages
from kdnb.networks import Network


class BYOT(Method):
    """Exits after the shallow stages learn from the labels and from the deepest classifier.

    Minimises label_weight CE of every classifier + for every exit soft_weight T^2 KL(full || exit) +
    feature_weight ||embedding of the exit - of the full net||^2. The full net is the target, detached;
    its early stages feel the exits' losses. The exits are scaffolding: ``export`` leaves them out.

    label_weight, soft_weight, temperature: 1 - a, a = 0.1 and 3 in the unofficial code.
    feature_weight: there 1e-6 for a sum over the batch; here 128 times that, for a mean over it, as if
    its batches were of 128.

    Raises InputError for a network that does not show its stages, a negative weight, or a temperature
    not above 0.
    Differs: the soft term is a KL divergence, as in the paper, where the unofficial code has a cross
    entropy of the same gradient. The squared distance is of pooled vectors (our reading), and a mean over
    the batch, so that its weight does not depend on the batch size; the unofficial code's mask, where
    either is above 0, is left out: behind a ReLU it changes nothing.
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
        """Logits (B, K) of the full net and of every exit: "full", "exit1", ..."""
        full = self.student.features(images)
        exits = zip(self.exits, full.maps, strict=False)
        return {"full": full.logits} | {
            f"exit{number}": shallow(map) for number, (shallow, map) in enumerate(exits, start=1)
        }

    def export(self) -> nn.Module:
        return self.student


class Exit(nn.Module):
    """A bottleneck to the last stage's width and size, a mean over the positions, a classifier:
    (B, C, H, W) -> logits (B, K).

    1 x 1 convolution to a quarter of the channels, one of kernel and stride ``reduction``, 1 x 1 to
    ``width`` channels; batch norm and ReLU behind each.
    """

    def __init__(self, channels: int, width: int, reduction: int, classes: int) -> None:
        super().__init__()
        narrow = max(1, channels // 4)
        self.bottleneck = nn.Sequential(
            *_activated(nn.Conv2d(channels, narrow, 1, bias=False)),
            *_activated(nn.Conv2d(narrow, narrow, reduction, stride=reduction, bias=False)),
            *_activated(nn.Conv2d(narrow, width, 1, bias=False)),
        )
        self.head = nn.Linear(width, classes)

    def embedding(self, map: Tensor) -> Tensor:
        """The pooled vector (B, D) that enters the exit's head."""
        return self.bottleneck(map).mean((2, 3))

    def forward(self, map: Tensor) -> Tensor:
        return self.head(self.embedding(map))


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """||a - b||^2 of vectors (B, D), mean over the batch: a scalar."""
    return a.shape[1] * mean_squared_error(a, b)


def _activated(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()
