"""Hinton's knowledge distillation: the student matches the teacher's softened outputs.

Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2.
"""

import torch
from torch import Tensor, nn

from kdnb.functional import kd_loss, label_loss
from kdnb.methods.families.distillation import Distillation


class KD(Distillation):
    """The student learns from the labels and from a frozen teacher's soft labels.

    student, teacher: any networks that map images to logits of the same classes; the teacher is
    frozen in place. temperature: T. label_weight, soft_weight: of the cross entropy and of
    T^2 KL(teacher || student); 0.1, 0.9 and T = 4 are the CIFAR benchmark's (RepDistiller).

    Raises InputError for a temperature that is not above 0, a negative weight, or networks that
    declare different numbers of classes.

    Differs: the paper's soft term is a cross entropy; the KL divergence has the same gradient and
    is 0 where the student agrees.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float = 4.0,
        label_weight: float = 0.1,
        soft_weight: float = 0.9,
    ) -> None:
        super().__init__(
            student, teacher, label_weight=label_weight, soft_weight=soft_weight, temperature=temperature
        )

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        student_logits = self.student(images)
        soft = kd_loss(student_logits, teacher_logits, self.temperature)
        return {
            "student/label": self.label_weight * label_loss(student_logits, labels),
            "student/soft": self.soft_weight * soft,
        }
