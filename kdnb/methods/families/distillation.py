"""Distillation: what every method with one student and one frozen teacher has in common."""

import torch
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.functional import kd_loss, label_loss, positive_temperature, require_weights
from kdnb.method import Method, Parts, frozen
from kdnb.networks import Features, Network


class Distillation(Method):
    """A student that learns from the labels and, where ``soft_weight`` is above 0, from the soft
    labels of a frozen teacher: the skeleton label_weight CE + soft_weight KD + a paper's own terms.

    Raises InputError for a temperature that is not above 0, a negative weight, or networks that
    declare different numbers of classes.
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
        """The student's and the teacher's, from one pass each; the teacher's have no graph."""
        with torch.no_grad():
            teacher = self.teacher.features(images)
        return self.student.features(images), teacher

    def logit_terms(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The weighted terms on logits (B, K); the soft one is left out where its weight is 0."""
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
    """Raises InputError for a network, given by its role, that does not show its stages."""
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
