"""SemCKD: every student layer learns from all teacher layers, weighted by a learned association.

Source: Chen et al., Cross-Layer Distillation with Semantic Calibration, AAAI 2021; the journal
version: Wang et al., SemCKD, TKDE 2022. Axes: S student layers, M teacher layers.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.errors import InputError, require_choice
from kdnb.functional import at_least_float32, pooled, require_weights
from kdnb.method import Method, Parts, evaluating
from kdnb.methods.families.distillation import Distillation, require_stages
from kdnb.networks import Network

VARIANTS = ("learned", "uniform", "fixed", "shuffled")


class SemCKD(Distillation):
    """Every student layer learns from all teacher layers, by an association learned for each image.

    Minimises CE + KD + a cross-layer loss: the distance of every pair of layers, weighted.

    batch_size: B, of every training step and of ``association``, since the association reads rows
    of B x B similarities. cross_layer_weight: 400 on CIFAR, 50 on ImageNet. variant: "learned" is
    the paper's; the controls are "uniform" (1 / M everywhere), "fixed" (each student layer with the
    teacher layer at the same relative depth) and "shuffled" (learned, but every image gets the
    weights of another one in its batch).

    Distances, and with them the weights, follow the scale of the teacher's maps: notebook 04 shows it.

    Raises InputError for networks that do not show their stages, an unknown variant, a batch_size
    below 4, and in training for a batch of another size. Of several processes each sees its share of
    a batch, and compares the images of that share only.
    Differs: a projector is made only for pairs that can have weight (``fixed`` has S of them).
    """

    fixed_batch = True

    def __init__(
        self,
        student: Network,
        teacher: Network,
        batch_size: int = 64,
        *,
        variant: str = "learned",
        cross_layer_weight: float = 400.0,
        label_weight: float = 1.0,
        soft_weight: float = 1.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(
            student, teacher, label_weight=label_weight, soft_weight=soft_weight, temperature=temperature
        )
        require_stages(student=student, teacher=teacher)
        require_weights(cross_layer_weight=cross_layer_weight)
        if batch_size < 4:
            raise InputError(f"SemCKD compares the images of a batch: at least 4, found {batch_size}.")
        self.batch_size, self.cross_layer_weight = batch_size, cross_layer_weight
        self.variant = require_choice("variant", variant, VARIANTS)
        layers = len(student.channels), len(teacher.channels)
        if variant in ("learned", "shuffled"):
            self.attention = LayerAttention(*layers, batch_size)
        else:
            self.register_buffer("weights", _constant_weights(variant, *layers))
        self.projectors = nn.ModuleDict()
        for i, j in _pairs(variant, *layers):
            self.projectors[f"{i}_{j}"] = Projector(student.channels[i], teacher.channels[j])

    @classmethod
    def assemble(cls, parts: Parts, **options: object) -> Method:
        """Builds the method from student, teacher and batch size of ``parts``."""
        return cls(parts.student, parts.teacher, parts.batch_size, **options)

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        student, teacher = self.features(images)
        weights = self._weights(student.maps, teacher.maps)
        if self.variant == "shuffled":
            weights = weights.roll(int(torch.randint(1, len(weights), ())), 0)
        distances = self._distances(student.maps, teacher.maps)
        terms = self.logit_terms(student.logits, teacher.logits, labels)
        return terms | {"student/cross_layer": self.cross_layer_weight * cross_layer_loss(distances, weights)}

    @torch.no_grad()
    def association(self, images: Tensor) -> Tensor:
        """How much each student layer listens to each teacher layer, per image: (B, S, M), rows sum
        to 1. In eval mode, before any shuffling.

        Raises InputError unless there are ``batch_size`` images.
        """
        with evaluating(self):
            student, teacher = self.features(images)
            return self._weights(student.maps, teacher.maps)

    def associations(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """``association`` of all images: (N, S, M). An incomplete batch is filled with its own first
        images, whose second weights are dropped."""
        found = []
        for images, _ in batches:
            filled = torch.arange(max(self.batch_size, len(images))) % len(images)
            found.append(self.association(images[filled.to(images.device)])[: len(images)])
        return torch.cat(found)

    def _weights(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        if (found := len(student_maps[0])) != self.batch_size:
            raise InputError(
                f"SemCKD was built for batches of {self.batch_size} images and got {found}. Drop the "
                "incomplete last batch (drop_last=True), or build it with batch_size of the batches "
                "(under torchrun: of each process's share)."
            )
        if self.variant in ("learned", "shuffled"):
            return self.attention(student_maps, teacher_maps)
        return self.weights.expand(len(student_maps[0]), -1, -1)

    def _distances(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Mean squared difference of every projected pair, per image: (B, S, M); 0 where no pair is."""
        student, teacher = _Sizes(student_maps), _Sizes(teacher_maps)
        nothing = at_least_float32(student_maps[0].new_zeros(len(student_maps[0])))
        found = []
        for i, student_map in enumerate(student_maps):
            for j, teacher_map in enumerate(teacher_maps):
                if f"{i}_{j}" not in self.projectors:
                    found.append(nothing)
                    continue
                size = _smaller(student_map, teacher_map)
                projected = self.projectors[f"{i}_{j}"](student.at(i, size))
                difference = at_least_float32(projected) - teacher.at(j, size)
                found.append(difference.square().mean((1, 2, 3)))
        return torch.stack(found, 1).unflatten(1, (len(student_maps), len(teacher_maps)))


class LayerAttention(nn.Module):
    """The learned association: student layers ask, teacher layers answer.

    Maps (B, C, H, W) of S student and M teacher layers -> (B, S, M), softmax over the teacher's. A
    layer's batch-similarity matrix (B, B) passes an MLP of its own, B -> 2 (B // 4) -> B // 4, to
    unit vectors; a weight is the softmax of their inner products, so it has bounds
    (``analysis.association_bounds``). Computed in float32 or more.
    """

    def __init__(self, student_layers: int, teacher_layers: int, batch_size: int) -> None:
        super().__init__()
        self.queries = StackedMLP(student_layers, batch_size)
        self.keys = StackedMLP(teacher_layers, batch_size)

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        with torch.autocast(student_maps[0].device.type, enabled=False):
            queries = self.queries(batch_similarity(student_maps))  # (S, B, D)
            keys = self.keys(batch_similarity(teacher_maps))  # (M, B, D)
            return torch.einsum("sbd,mbd->bsm", queries, keys).softmax(2)


class StackedMLP(nn.Module):
    """An MLP a layer, all in two batched products: (L, B, B) -> unit vectors (L, B, B // 4)."""

    def __init__(self, layers: int, batch_size: int) -> None:
        super().__init__()
        width = batch_size // 4
        self.weight1 = _uniform(layers, 2 * width, batch_size, fan_in=batch_size)
        self.bias1 = _uniform(layers, 1, 2 * width, fan_in=batch_size)
        self.weight2 = _uniform(layers, width, 2 * width, fan_in=2 * width)
        self.bias2 = _uniform(layers, 1, width, fan_in=2 * width)

    def forward(self, similarity: Tensor) -> Tensor:
        hidden = torch.baddbmm(self.bias1, similarity, self.weight1.mT).relu()
        return F.normalize(torch.baddbmm(self.bias2, hidden, self.weight2.mT), dim=2)


class Projector(nn.Sequential):
    """1 x 1, 3 x 3 and 1 x 1 convolutions to the teacher's width, twice as wide between:
    (B, C_s, H, W) -> (B, C_t, H, W)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        wide = 2 * channels_out
        super().__init__(
            nn.Conv2d(channels_in, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, channels_out, 1, bias=False),
        )


def batch_similarity(maps: Sequence[Tensor]) -> Tensor:
    """Inner products of the images' maps, layer by layer, not normalised: L maps -> (L, B, B)."""
    rows = [at_least_float32(map).permute(0, 2, 3, 1).flatten(1) for map in maps]  # no copy: NHWC
    return torch.stack([row @ row.T for row in rows])


def cross_layer_loss(distances: Tensor, weights: Tensor) -> Tensor:
    """Weighted distances (B, S, M), mean over images and student layers: a scalar.

    Raises InputError for weights of another shape.
    """
    if distances.shape != weights.shape:
        found = f"{tuple(distances.shape)} and {tuple(weights.shape)}"
        raise InputError(f"A weight for each distance, (B, S, M) both; found {found}.")
    return (weights * distances).sum(2).mean()


class _Sizes:
    """Maps at the sizes they are asked for, each averaged once."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self.maps, self.made = maps, {}

    def at(self, layer: int, size: tuple[int, int]) -> Tensor:
        if (layer, size) not in self.made:
            self.made[layer, size] = pooled(self.maps[layer], size)
        return self.made[layer, size]


def _smaller(a: Tensor, b: Tensor) -> tuple[int, int]:
    return min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])


def _pairs(variant: str, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pairs that can have weight."""
    if variant == "fixed":
        depth = teacher_layers / student_layers
        return [(i, math.ceil((i + 1) * depth) - 1) for i in range(student_layers)]
    return [(i, j) for i in range(student_layers) for j in range(teacher_layers)]


def _constant_weights(variant: str, student_layers: int, teacher_layers: int) -> Tensor:
    weights = torch.zeros(1, student_layers, teacher_layers)
    pairs = _pairs(variant, student_layers, teacher_layers)
    for i, j in pairs:
        weights[0, i, j] = student_layers / len(pairs)
    return weights


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """What ``nn.Linear`` starts from."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
