"""AT: the student attends to where the teacher attends, stage by stage.

Source: Zagoruyko and Komodakis, Paying More Attention to Attention, 2017, eq. 2.
"""

from collections.abc import Sequence

from torch import Tensor

from kdnb.distillation import Distillation, require_stages
from kdnb.errors import InputError
from kdnb.functional import attention_map, normalized_mse, of_equal_size, require_weights
from kdnb.networks import Network


class AttentionTransfer(Distillation):
    """The student attends to where the teacher attends, stage by stage.

    Minimises CE and the distance of unit attention maps; KD as well where ``soft_weight`` is set.

    attention_weight: 1000, the benchmark's, for a loss that is at most 4 / (H W) a stage.
    soft_weight: 0 as in the paper and in RepDistiller's table, 1 as in SemCKD's.

    Raises InputError unless both networks have the same number of stages, and, when training, for a
    map with one position.
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
    ) -> None:
        super().__init__(
            student, teacher, label_weight=label_weight, soft_weight=soft_weight, temperature=temperature
        )
        require_stages(student=student, teacher=teacher)
        require_weights(attention_weight=attention_weight)
        if len(student.channels) != len(teacher.channels):
            raise InputError(
                f"The student has {len(student.channels)} stages and the teacher "
                f"{len(teacher.channels)}; attention transfer pairs them one by one. Choose networks "
                "with equal numbers of stages, or tap as many with Tapped."
            )
        self.attention_weight = attention_weight

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        student, teacher = self.features(images)
        transfer = attention_transfer_loss(student.maps, teacher.maps)
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
