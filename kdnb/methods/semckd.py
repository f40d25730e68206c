"""SemCKD: every student layer learns from all teacher layers, weighted by a learned association.

Source: Chen et al., Cross-Layer Distillation with Semantic Calibration, AAAI 2021, and the journal version,
Wang et al., SemCKD, TKDE 2022. Equations, defaults and reported numbers are in ``kdnb/methods/README.md``,
section SemCKD. Axes: S student layers, M teacher layers.
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
SIMILARITIES = ("raw", "ranked")
DISTANCES = ("absolute", "relative")
TINY = 1e-12  # in place of a scale of 0


class SemCKD(Distillation):
    """Every student layer learns from all teacher layers, by an association learned for each image.

    The loss terms are ``student/label``, ``student/soft`` if ``soft_weight`` is above 0, and
    ``student/cross_layer``, the distance of every pair of layers, weighted by the association.

    Args:
        student: A network that shows its stages.

        teacher: A network that shows its stages, with the same classes. It is frozen in place.

        batch_size: B, the number of images in every training batch and in every call of ``association``. The
            association reads rows of B x B similarities, so B cannot change afterwards. Where several
            processes train together, it is the size of each process's share, and only images of one share are
            compared.

        variant: ``"learned"`` is the paper's method. The others are controls: ``"uniform"`` has weights 1 /
            M, ``"fixed"`` pairs each student layer with the teacher layer at the same relative depth, and
            ``"shuffled"`` gives every image the learned weights of another image in the batch.

        similarity: How the attention is told what a layer sees in a batch. ``"raw"`` is the paper's
            similarity. ``"ranked"`` is ours: ``ranked_similarity``, in which the order of the images does
            not matter. It has no effect where the weights are constant.

        distance: What the weights are multiplied with. ``"absolute"`` is the paper's distance, which is
            larger for layers with larger numbers. ``"relative"`` is ours: every pair's distances are divided
            by their mean over the batch, through which no gradient flows. All pairs then cost the same on
            average, and the attention learns only which images are easier than usual for a pair.

        cross_layer_weight: Weight of the cross-layer term. The authors have 400 on CIFAR and 50 on ImageNet.
            Relative distances are 1 on average, so they need a smaller weight.

        label_weight: Weight of the cross entropy.

        soft_weight: Weight of the KD term.

        temperature: Temperature of the KD term.

    Raises:
        InputError: If a network does not show its stages, if the variant, the similarity or the distance is
            unknown, if ``batch_size`` is below 4, if a weight is negative, if the temperature is not above
            0, or if the numbers of classes differ. In training, if a batch has another size.

    Source:
        Chen et al., 2021; the fact sheet, section SemCKD, steps 1 to 5.

    Differs:
        A projector exists only for pairs that can have a weight above 0, which are S pairs for ``"fixed"``.
        With absolute distances, as in the paper, the learned weights depend on the scale of the teacher's
        maps. Ranked similarities and relative distances are ours; notebook 04 shows what they change.
    """

    fixed_batch = True

    def __init__(
        self,
        student: Network,
        teacher: Network,
        batch_size: int = 64,
        *,
        variant: str = "learned",
        similarity: str = "raw",
        distance: str = "absolute",
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
        self.similarity = require_choice("similarity", similarity, SIMILARITIES)
        self.distance = require_choice("distance", distance, DISTANCES)
        layers = len(student.channels), len(teacher.channels)
        if variant in ("learned", "shuffled"):
            self.attention = LayerAttention(*layers, batch_size, similarity=similarity)
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
            weights = weights[_other_images(len(weights), weights.device)]
        distances = self._distances(student.maps, teacher.maps)
        terms = self.logit_terms(student.logits, teacher.logits, labels)
        return terms | {"student/cross_layer": self.cross_layer_weight * cross_layer_loss(distances, weights)}

    @torch.no_grad()
    def association(self, images: Tensor) -> Tensor:
        """How much each student layer listens to each teacher layer, for every image.

        It is computed in eval mode, and before any shuffling.

        Args:
            images: (B, 3, H, W) with exactly ``batch_size`` images.

        Returns:
            Weights (B, S, M). Each row sums to 1.

        Raises:
            InputError: If the number of images is not ``batch_size``.
        """
        with evaluating(self):
            student, teacher = self.features(images)
            return self._weights(student.maps, teacher.maps)

    def associations(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """The association of all images, batch by batch.

        An incomplete batch is filled up with its own first images, and their second weights are dropped.

        Args:
            batches: Pairs of images (B, 3, H, W) and labels. The labels are not used.

        Returns:
            Weights (N, S, M) of all N images, in order.
        """
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
        """Returns the distance of every projected pair for every image, (B, S, M).

        Pairs without a projector have 0.
        """
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
        distances = torch.stack(found, 1).unflatten(1, (len(student_maps), len(teacher_maps)))
        if self.distance == "relative":
            distances = distances / distances.detach().mean(0).clamp(min=TINY)
        return distances


class LayerAttention(nn.Module):
    """The learned association: the student's layers ask, the teacher's layers answer.

    Every layer has its own MLP. It turns each row of the layer's batch similarity (B, B) into a unit vector
    with B // 4 entries. A weight is the softmax, over the teacher's layers, of inner products of these
    vectors. The products lie between -1 and 1, so the weights have bounds:
    ``kdnb.analysis.association_bounds``. Everything is computed in float32 or more.

    Args:
        student_layers: S.

        teacher_layers: M.

        batch_size: B.

        similarity: ``"raw"``, or ``"ranked"`` to read the rows of ``ranked_similarity``.
    """

    def __init__(
        self, student_layers: int, teacher_layers: int, batch_size: int, *, similarity: str = "raw"
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.queries = StackedMLP(student_layers, batch_size)
        self.keys = StackedMLP(teacher_layers, batch_size)

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
        """Computes the weights.

        Args:
            student_maps: S maps (B, C, H, W) of any widths and sizes.

            teacher_maps: M such maps of the same images.

        Returns:
            Weights (B, S, M). Each row sums to 1.
        """
        with torch.autocast(student_maps[0].device.type, enabled=False):
            queries = self.queries(self._described(student_maps))  # (S, B, D)
            keys = self.keys(self._described(teacher_maps))  # (M, B, D)
            return torch.einsum("sbd,mbd->bsm", queries, keys).softmax(2)

    def _described(self, maps: Sequence[Tensor]) -> Tensor:
        similarity = batch_similarity(maps)
        return ranked_similarity(similarity) if self.similarity == "ranked" else similarity


class StackedMLP(nn.Module):
    """One MLP for each layer, all computed by two batched products.

    The widths are B, 2 (B // 4) and B // 4, with a ReLU between.

    Args:
        layers: L, the number of layers.

        batch_size: B.
    """

    def __init__(self, layers: int, batch_size: int) -> None:
        super().__init__()
        width = batch_size // 4
        self.weight1 = _uniform(layers, 2 * width, batch_size, fan_in=batch_size)
        self.bias1 = _uniform(layers, 1, 2 * width, fan_in=batch_size)
        self.weight2 = _uniform(layers, width, 2 * width, fan_in=2 * width)
        self.bias2 = _uniform(layers, 1, width, fan_in=2 * width)

    def forward(self, similarity: Tensor) -> Tensor:
        """Maps similarities (L, B, B) to unit vectors (L, B, B // 4)."""
        hidden = torch.baddbmm(self.bias1, similarity, self.weight1.mT).relu()
        return F.normalize(torch.baddbmm(self.bias2, hidden, self.weight2.mT), dim=2)


class Projector(nn.Sequential):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 from the student's width to the teacher's.

    It maps (B, C_s, H, W) to (B, C_t, H, W). Batch norm and ReLU stand behind the first two convolutions. No
    convolution has a bias.

    Args:
        channels_in: C_s.

        channels_out: C_t. Between the convolutions there are 2 C_t channels.
    """

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
    """Inner products of the images' maps, layer by layer, without normalisation.

    Args:
        maps: L maps (B, C, H, W) of any widths and sizes.

    Returns:
        Similarities (L, B, B) in float32 or more.

    Example:
        >>> import torch
        >>> batch_similarity([torch.ones(2, 3, 4, 4)]).tolist()
        [[[48.0, 48.0], [48.0, 48.0]]]
    """
    rows = [at_least_float32(map).permute(0, 2, 3, 1).flatten(1) for map in maps]  # no copy: NHWC
    return torch.stack([row @ row.T for row in rows])


def ranked_similarity(similarity: Tensor) -> Tensor:
    """Similarities whose rows do not depend on the order of the images.

    Every matrix is centred, so that each row and each column has the mean 0, and divided by the mean of its
    diagonal, so that the scale of a layer drops out. Then each row is sorted, the largest value first. Entry
    k of a row is the similarity to the image that is the k-th most similar, wherever it lies in the batch.

    Args:
        similarity: As ``batch_similarity`` returns it, (L, B, B).

    Returns:
        The rows, (L, B, B).

    Source:
        Ours. The centring is that of linear CKA.

    Example:
        >>> import torch
        >>> ranked_similarity(torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])).tolist()
        [[[1.0, -1.0], [1.0, -1.0]]]
    """
    columns, rows, whole = (similarity.mean(axes, keepdim=True) for axes in (1, 2, (1, 2)))
    centred = similarity - columns - rows + whole
    scale = centred.diagonal(dim1=1, dim2=2).mean(1).clamp(min=TINY)
    return (centred / scale[:, None, None]).sort(2, descending=True).values


def cross_layer_loss(distances: Tensor, weights: Tensor) -> Tensor:
    """The weighted distance, as a mean over images and student layers.

    Args:
        distances: (B, S, M).

        weights: (B, S, M), with rows that sum to 1.

    Returns:
        A scalar.

    Raises:
        InputError: If the shapes differ, because broadcasting would hide it.
    """
    if distances.shape != weights.shape:
        found = f"{tuple(distances.shape)} and {tuple(weights.shape)}"
        raise InputError(f"A weight for each distance, (B, S, M) both; found {found}.")
    return (weights * distances).sum(2).mean()


class _Sizes:
    """Maps at the sizes that are asked for. Each map is averaged to each size once."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self.maps, self.made = maps, {}

    def at(self, layer: int, size: tuple[int, int]) -> Tensor:
        if (layer, size) not in self.made:
            self.made[layer, size] = pooled(self.maps[layer], size)
        return self.made[layer, size]


def _other_images(count: int, device: torch.device) -> Tensor:
    """For each image of a batch the place of another, all shifted alike: drawn where it is used."""
    return (torch.arange(count, device=device) - torch.randint(1, count, (), device=device)) % count


def _smaller(a: Tensor, b: Tensor) -> tuple[int, int]:
    return min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])


def _pairs(variant: str, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Returns the pairs (student layer, teacher layer) that can have a weight above 0."""
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
    """Returns a parameter that starts as the weights of ``nn.Linear`` start."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
