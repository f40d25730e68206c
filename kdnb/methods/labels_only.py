"""Labels only: the baseline that every distilled student is compared with.

Source: ``kdnb/methods/README.md``, section KD, "Labels only".
"""

from torch import Tensor, nn

from kdnb.functional import label_loss
from kdnb.method import Method


class LabelsOnly(Method):
    """The student learns from the labels alone.

    The only loss term is ``student/label``, the cross entropy.

    Args:
        student: Any network that maps images (B, 3, H, W) to logits (B, K).
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        return {"student/label": label_loss(self.student(images), labels)}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"student": self.student(images)}

    def export(self) -> nn.Module:
        return self.student
