"""Labels only: the baseline that every distilled student is compared with.

Source: ``kdnb/methods/README.md``, section "Labels only".
"""

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.functional import label_loss
from kdnb.method import Method


class LabelsOnly(Method):
    """The student learns from the labels alone.

    The only loss term is ``student/label``, the cross entropy.

    Args:
        student: Any network that maps images (B, 3, H, W) to logits (B, K).

        smoothing: The share of the probability that label smoothing gives to all classes alike. It is a
            control for distillation: soft targets that know nothing.

    Raises:
        InputError: If ``smoothing`` is not in [0, 1).
    """

    def __init__(self, student: nn.Module, *, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise InputError(f"smoothing must be in [0, 1), found {smoothing}; 0.1 is usual, 0 is none.")
        self.student, self.smoothing = student, smoothing

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        return {"student/label": label_loss(self.student(images), labels, smoothing=self.smoothing)}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"student": self.student(images)}

    def export(self) -> nn.Module:
        return self.student
