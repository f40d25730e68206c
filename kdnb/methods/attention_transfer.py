"""AT: the student attends to where the teacher attends, stage by stage.

Source: Zagoruyko and Komodakis, Paying More Attention to Attention, 2017, eq. 2.
"""

from collections.abc import Sequence

from torch import Tensor

from kdnb.errors import InputError, require_choice
from kdnb.functional import attention_map, normalized_mse, of_equal_size, require_weights
from kdnb.methods.families.distillation import Distillation, require_stages
from kdnb.networks import Network

PAIRS = ("order", "size")


class AttentionTransfer(Distillation):
    """The student attends to where the teacher attends, stage by stage.

    Minimises CE and the distance of unit attention maps; KD as well where ``soft_weight`` is set.

    attention_weight: 1000, the benchmark's, for a loss that is at most 4 / (H W) a stage.
    soft_weight: 0 as in the paper and in RepDistiller's table, 1 as in SemCKD's. pairs: "order", the
    stages one by one, or "size", those that divide the image alike: then numbers of stages may differ.

    Raises InputError for stages that cannot be paired so, and, when training, for a map with one
    position.
    Differs: the paper and the benchmarks know pairs by order alone.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        *,
        attention_weight: float = 1000.0,
        label_weight: float = 1.0,
        soft_weight: float = 0.0,
        temperature: float = 4.0,
        pairs: str = "order",
    ) -> None:
        super().__init__(
            student, teacher, label_weight=label_weight, soft_weight=soft_weight, temperature=temperature
        )
        require_stages(student=student, teacher=teacher)
        require_weights(attention_weight=attention_weight)
        self.pairs = _paired(student, teacher, require_choice("pairs", pairs, PAIRS))
        self.attention_weight = attention_weight

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        student, teacher = self.features(images)
        own, shown = zip(*((student.maps[i], teacher.maps[j]) for i, j in self.pairs), strict=True)
        transfer = attention_transfer_loss(own, shown)
        terms = self.logit_terms(student.logits, teacher.logits, labels)
        return terms | {"student/attention": self.attention_weight * transfer}


def attention_transfer_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of unit attention maps, summed over the stages: a scalar.

    Maps (B, C, H, W), from shallow to deep; of a pair, the larger is averaged to the smaller's size.
    Raises InputError for different numbers of maps or images, and for maps of one position, whose
    attention is always 1. Eq. 2 with p = 2.
    Differs: the mean squared difference of the authors' code, where the paper sums Euclidean norms.
    """
    if len(student_maps) != len(teacher_maps):
        found = f"{len(student_maps)} student maps and {len(teacher_maps)} teacher maps"
        raise InputError(f"Attention transfer pairs maps one by one, found {found}.")
    distances = []
    for pair in zip(student_maps, teacher_maps, strict=True):
        student, teacher = of_equal_size(*pair)
        if student[0, 0].numel() == 1:
            raise InputError(
                "A map has one position, so its attention is always 1 and nothing is transferred. "
                "Use larger images, or networks that reduce them less."
            )
        distances.append(normalized_mse(attention_map(student), attention_map(teacher)))
    return sum(distances)


def _paired(student: Network, teacher: Network, how: str) -> list[tuple[int, int]]:
    """Which student stage attends to which teacher stage."""
    if how == "size":
        found = [
            (i, j)
            for i, own in enumerate(student.reductions)
            for j, other in enumerate(teacher.reductions)
            if own == other
        ]
        if not found:
            raise InputError(
                f"No stage of the student (dividing the image by {student.reductions}) is as large as one "
                f'of the teacher ({teacher.reductions}). Choose pairs="order", or tap others with Tapped.'
            )
        return found
    if len(student.channels) != len(teacher.channels):
        raise InputError(
            f"The student has {len(student.channels)} stages and the teacher {len(teacher.channels)}; "
            'attention transfer pairs them one by one. Choose pairs="size", networks with equal numbers of '
            "stages, or tap as many with Tapped."
        )
    return [(stage, stage) for stage in range(len(student.channels))]
