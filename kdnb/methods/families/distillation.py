"""Distillation: what every method with one student and one frozen teacher has in common.

The loss terms on logits are those of ``kdnb/methods/README.md``, section KD.
"""

import torch
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.functional import kd_loss, label_loss, positive_temperature, require_weights
from kdnb.method import Method, Parts, frozen
from kdnb.networks import Features, Network


class Distillation(Method):
    """A student that learns from the labels and, optionally, from the soft labels of a frozen teacher.

    A method derives from it and adds its own terms to ``logit_terms``.

    Args:
        student: A network that maps images (B, 3, H, W) to logits (B, K).

        teacher: A network with the same classes. It is frozen in place.

        label_weight: Weight of the cross entropy.

        soft_weight: Weight of the KD term. With 0 the term is left out.

        temperature: Temperature of the KD term.

    Raises:
        InputError: If the temperature is not above 0, if a weight is negative, or if the networks declare
            different numbers of classes.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        label_weight: float,
        soft_weight: float,
        temperature: float,
    ) -> None:
        super().__init__()
        _require_same_classes(student, teacher)
        require_weights(label_weight=label_weight, soft_weight=soft_weight)
        self.student = student
        self.teacher = frozen(teacher)
        self.label_weight, self.soft_weight = label_weight, soft_weight
        self.temperature = positive_temperature(temperature)

    @classmethod
    def assemble(cls, parts: Parts, **options: object) -> Method:
        """Builds the method from the student and the teacher of ``parts``."""
        return cls(parts.student, parts.teacher, **options)

    def features(self, images: Tensor) -> tuple[Features, Features]:
        """The features of student and teacher, from one pass of each.

        Args:
            images: (B, 3, H, W).

        Returns:
            The student's features and the teacher's. The teacher's have no graph.
        """
        with torch.no_grad():
            teacher = self.teacher.features(images)
        return self.student.features(images), teacher

    def logit_terms(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The weighted loss terms on logits.

        Args:
            student_logits: (B, K).

            teacher_logits: (B, K).

            labels: (B,).

        Returns:
            ``student/label``, and ``student/soft`` if its weight is above 0.
        """
        terms = {"student/label": self.label_weight * label_loss(student_logits, labels)}
        if self.soft_weight:
            soft = kd_loss(student_logits, teacher_logits, self.temperature)
            terms["student/soft"] = self.soft_weight * soft
        return terms

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"student": self.student(images)}

    def export(self) -> nn.Module:
        return self.student


def require_stages(**networks: nn.Module) -> None:
    """Checks that networks show their stages.

    Args:
        **networks: Each network under its role, such as ``student``. The role appears in the message.

    Raises:
        InputError: If one of them is not a ``Network``.
    """
    for role, net in networks.items():
        if not isinstance(net, Network):
            raise InputError(
                f"The {role} is a {type(net).__name__}, which does not show its stages; this method "
                'looks inside. Wrap it: Tapped(model, "layer1", "layer2"), from kdnb.networks, '
                "with the paths of its stages."
            )


def _require_same_classes(student: nn.Module, teacher: nn.Module) -> None:
    found = getattr(student, "classes", None), getattr(teacher, "classes", None)
    if None not in found and found[0] != found[1]:
        raise InputError(
            f"The student has {found[0]} classes and the teacher {found[1]}; distillation needs the "
            f"same classes. Build the student with classes={found[1]}."
        )
