"""Hinton's knowledge distillation: the student matches the teacher's softened outputs.

Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2. Equations,
defaults and reported numbers are in ``kdnb/methods/README.md``, section KD.
"""

import torch
from torch import Tensor, nn

from kdnb.method import frozen
from kdnb.methods.families.distillation import Distillation


class KD(Distillation):
    """The student learns from the labels and from a frozen teacher's soft labels.

    The loss terms are ``student/label``, the cross entropy, and ``student/soft``, which is
    T^2 KL(teacher || student) of the logits softened at temperature T.

    Args:
        student: A network that maps images (B, 3, H, W) to logits (B, K). It needs no stages.

        teacher: A network with the same K classes. It is frozen in place.

        temperature: T, the temperature of both distributions. The benchmark RepDistiller has 4.

        label_weight: Weight of the cross entropy. RepDistiller has 0.1.

        soft_weight: Weight of the soft term. RepDistiller has 0.9.

        scrambled: Whether the teacher's logits of the classes that it ranks below its first change places
            at random, anew for every image and step. It is a control: such targets are as soft as the
            teacher's and say nothing of which classes are alike.

    Raises:
        InputError: If the temperature is not above 0, if a weight is negative, or if the networks declare
            different numbers of classes.

    Example:
        >>> from kdnb.networks import build
        >>> method = KD(build("resnet8", classes=10), build("resnet20", classes=10), temperature=2.0)
        >>> any(parameter.requires_grad for parameter in method.teacher.parameters())
        False

    Source:
        Hinton, Vinyals and Dean, 2015, section 2.

    Differs:
        The soft term of the paper is a cross entropy. The KL divergence has the same gradient, and it is 0
        where the student agrees with the teacher.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float = 4.0,
        label_weight: float = 0.1,
        soft_weight: float = 0.9,
        scrambled: bool = False,
    ) -> None:
        super().__init__(
            student, teacher, label_weight=label_weight, soft_weight=soft_weight, temperature=temperature
        )
        if scrambled:
            self.teacher = frozen(Scrambled(self.teacher))

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        return self.logit_terms(self.student(images), teacher_logits, labels)


class Scrambled(nn.Module):
    """A network whose logits change places at random, all but the largest of each image.

    Args:
        network: It maps images (B, 3, H, W) to logits (B, K).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) with the values of the network's own in every row, drawn anew in every call."""
        values, classes = self.network(images).sort(1, descending=True)  # (B, K)
        places = torch.rand_like(values[:, 1:]).argsort(1) + 1
        order = torch.cat((torch.zeros_like(places[:, :1]), places), 1)  # the largest stays
        return torch.empty_like(values).scatter(1, classes, values.gather(1, order))
