"""AT: the student attends to where the teacher attends, stage by stage.

Source: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, eq. 2. Equations, defaults and
reported numbers are in ``kdnb/methods/README.md``, section AT.
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

    The loss terms are ``student/label``, ``student/soft`` if ``soft_weight`` is above 0, and
    ``student/attention``, the distance between the unit attention maps of student and teacher.

    Args:
        student: A network that shows its stages.

        teacher: A network that shows its stages, with the same classes. It is frozen in place.

        attention_weight: Weight of the attention term. The term is at most 4 / (H W) for each pair of stages,
            which explains the benchmark's value of 1000.

        label_weight: Weight of the cross entropy.

        soft_weight: Weight of the KD term. It is 0 in the paper and in RepDistiller's table, and 1 in
            SemCKD's table.

        temperature: Temperature of the KD term.

        pairs: Which stages are compared. ``"order"`` pairs them one by one, so both networks need equal
            numbers of stages. ``"size"`` pairs every two stages that divide the image by the same factor.

    Raises:
        InputError: If the stages cannot be paired, if a weight is negative, if the temperature is not above
            0, or if the numbers of classes differ. In training, if a map has one position.

    Source:
        Zagoruyko and Komodakis, 2017, eq. 2.

    Differs:
        The paper and the benchmarks pair stages by order only.
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
        self.pairs = _stage_pairs(student, teacher, require_choice("pairs", pairs, PAIRS))
        self.attention_weight = attention_weight

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        student, teacher = self.features(images)
        own, shown = zip(*((student.maps[i], teacher.maps[j]) for i, j in self.pairs), strict=True)
        transfer = attention_transfer_loss(own, shown)
        terms = self.logit_terms(student.logits, teacher.logits, labels)
        return terms | {"student/attention": self.attention_weight * transfer}


def attention_transfer_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Sum over the stages of the mean squared difference of unit attention maps.

    Args:
        student_maps: One map (B, C, H, W) for each stage, from shallow to deep.

        teacher_maps: As many maps of the same images. C, H and W may differ from the student's: of each pair,
            the larger map is averaged down to the size of the smaller.

    Returns:
        A scalar. It is 0 if the normalised attention maps are equal.

    Raises:
        InputError: If the numbers of maps or of images differ, or if a map has one position, because the
            normalised attention of one position is always 1.

    Example:
        >>> import torch
        >>> maps = torch.rand(2, 8, 4, 4)
        >>> attention_transfer_loss([maps], [3 * maps]).item() < 1e-12  # strength does not matter
        True

    Source:
        Zagoruyko and Komodakis, 2017, eq. 2 with p = 2.

    Differs:
        The paper sums Euclidean norms. This is the mean squared difference of the authors' code.
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


def _stage_pairs(student: Network, teacher: Network, how: str) -> list[tuple[int, int]]:
    """Returns the pairs (student stage, teacher stage) to compare, counted from 0."""
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
