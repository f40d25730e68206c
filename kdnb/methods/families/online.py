"""Online distillation: what methods have in common whose students teach each other, and their leader.

Source: Zhang et al., Deep Mutual Learning, CVPR 2018, for the students. Fusion and leader: Li et al.,
Distilling a Powerful Student Model via Online Knowledge Distillation (FFSD), 2021, section III-B; its Tab. V
adds the same leader to other methods. Equations are in ``kdnb/methods/README.md``, sections DML and FFSD.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from kdnb.errors import InputError, require_choice
from kdnb.functional import kd_loss, label_loss, positive_temperature, require_counts, require_weights
from kdnb.method import Method, Parts
from kdnb.methods.families.distillation import require_stages
from kdnb.methods.families.leader import LEADERS, Fusion, LeaderPass, attention_distance, merge, separable
from kdnb.networks import Features, Network


class OnlineDistillation(Method):
    """Students of one architecture that teach each other, and optionally a leader that learns from them.

    SGD trains all networks together, with Nesterov momentum and a weight decay of 1e-4. The fusion module has
    a tenth of that weight decay, as in FFSD's code.

    Args:
        network: Factory: ``network(i)`` builds learner i. Learner 0 is the exported one: the leader, or the
            first student if there is no leader. The students are the learners from 1 on, or from 0 on without
            a leader.

        students: Number of students, from 2 to 6.

        leader: ``"fusion"`` is FFSD's leader, which learns from the students' fused maps. ``"ensemble"``
            learns from their mean logits alone. ``"none"`` means that there is no leader.

        temperature: Temperature of all soft terms.

        fusion_weight: Weight of the leader's terms on features.

    Raises:
        InputError: If there are fewer than 2 or more than 6 students, if the temperature is not above 0, if a
            weight is negative, if the networks do not show their stages, or if the leader's name is unknown.
            In training, if a batch has a single image.
    """

    weight_decay = 1e-4
    nesterov = True

    def __init__(
        self,
        network: Callable[[int], Network],
        *,
        students: int,
        leader: str,
        temperature: float,
        fusion_weight: float,
    ) -> None:
        super().__init__()
        require_counts(students=students)
        if not 2 <= students <= 6:
            raise InputError(f"students must be 2 to 6 networks that teach each other, found {students}.")
        require_weights(fusion_weight=fusion_weight)
        self.temperature = positive_temperature(temperature)
        self.fusion_weight, self.leadership = fusion_weight, require_choice("leader", leader, LEADERS)
        first = 0 if leader == "none" else 1
        self.students = nn.ModuleList(network(first + number) for number in range(students))
        require_stages(student=self.students[0])
        self.group = tuple(f"student{number}" for number in range(1, students + 1))
        if leader == "fusion":
            channels = self.students[0].head.in_features
            self.fusion = Fusion(channels, students, self.students[0].classes)
            self.decoder = separable(channels, students * channels)
        if leader != "none":
            self.leader = network(0)

    @classmethod
    def assemble(cls, parts: Parts, **options: object) -> Method:
        """Builds the method from the factory of networks in ``parts``."""
        return cls(parts.network, **options)

    def features(self, images: Tensor) -> list[Features]:
        """The features of every student, from one pass of each.

        Args:
            images: (B, 3, H, W).

        Returns:
            One ``Features`` for each student.

        Raises:
            InputError: If there is a single image in training.
        """
        self.require_batch(images)
        return [student.features(images) for student in self.students]

    def require_batch(self, images: Tensor) -> None:
        """Checks that a training batch has more than one image.

        Args:
            images: (B, 3, H, W).

        Raises:
            InputError: If there is a single image in training.
        """
        if self.training and len(images) < 2:
            raise InputError(
                "A batch of one image cannot train students with batch norm. Choose a batch size that "
                "leaves no single image at the end of an epoch."
            )

    def ensemble(self, students: Sequence[Features]) -> Tensor:
        """The students' mean logits.

        Args:
            students: The features of every student.

        Returns:
            Logits (B, K).
        """
        return torch.stack([student.logits for student in students]).mean(0)

    def lead(
        self, images: Tensor, labels: Tensor, students: Sequence[Features], ensemble: Tensor, ramp: float
    ) -> LeaderPass:
        """The loss terms of the fusion module and of the leader. No gradient reaches the students.

        The terms are ``fusion/label`` and ``fusion/soft`` (FFSD, eq. 4), ``leader/label`` and
        ``leader/soft``, and, with fusion, ``leader/fusion`` and ``leader/decoder`` (FFSD, eqs. 5 and 14
        without self-distillation).

        Args:
            images: (B, 3, H, W).

            labels: (B,).

            students: The features of every student for these images.

            ensemble: The students' combined logits (B, K), the target of the fusion module or, without
                fusion, of the leader.

            ramp: Factor of the terms on features, from 0 to 1.

        Returns:
            The terms, the leader's features and the fused map. Without a leader all are empty.

        Differs:
            The paper's eq. 5 compares features. As in the authors' code, unit attention maps are compared.
        """
        if self.leadership == "none":
            return LeaderPass({}, None, None)
        teacher, fused, terms = ensemble.detach(), None, {}
        if self.leadership == "fusion":
            merged = merge(students)
            fused, logits = self.fusion(merged)
            terms = {
                "fusion/label": label_loss(logits, labels),
                "fusion/soft": kd_loss(logits, teacher, self.temperature),
            }
            teacher, fused = logits.detach(), fused.detach()
        leader = self.leader.features(images)
        terms |= {
            "leader/label": label_loss(leader.logits, labels),
            "leader/soft": kd_loss(leader.logits, teacher, self.temperature),
        }
        if fused is not None:
            weight = ramp * self.fusion_weight
            terms |= {
                "leader/fusion": weight * attention_distance(leader.final, fused),
                "leader/decoder": weight * attention_distance(self.decoder(leader.final), merged),
            }
        return LeaderPass(terms, leader, fused)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The logits (B, K) of every student, of their ensemble, and of fusion and leader if they exist."""
        students = self.features(images)
        outputs = dict(zip(self.group, (student.logits for student in students), strict=True))
        outputs["ensemble"] = self.ensemble(students)
        if self.leadership == "fusion":
            outputs["fusion"] = self.fusion(merge(students))[1]
        if self.leadership != "none":
            outputs["leader"] = self.leader(images)
        return outputs

    def optimizers(self, lr: float) -> list[Optimizer]:
        return [self.sgd(lr)]

    def sgd(self, lr: float, *, apart: Iterable[nn.Module] = ()) -> SGD:
        """One SGD for everything that learns, with a tenth of the weight decay for the fusion module.

        Args:
            lr: Learning rate.

            apart: Modules to leave out, because another optimizer trains them.

        Returns:
            The optimizer.
        """
        fusion = set(self.fusion.parameters()) if self.leadership == "fusion" else set()
        elsewhere = fusion.union(*(module.parameters() for module in apart))
        others = [parameter for parameter in self.parameters() if parameter not in elsewhere]
        groups = [{"params": others}]
        if fusion:
            groups.append({"params": list(self.fusion.parameters()), "weight_decay": self.weight_decay / 10})
        return SGD(groups, lr, self.momentum, 0, self.weight_decay, self.nesterov)

    def export(self) -> nn.Module:
        return self.students[0] if self.leadership == "none" else self.leader


def mutual_terms(students: Sequence[Features], temperature: float) -> dict[str, Tensor]:
    """The mutual loss term of every student.

    A student's term is the mean of T^2 KL(other || self) over the other students, which are detached.

    Args:
        students: The features of every student.

        temperature: T.

    Returns:
        ``student1/mutual``, ``student2/mutual`` and so on.

    Source:
        Zhang et al., Deep Mutual Learning, 2018, eqs. 5 to 8; FFSD, eqs. 2 and 3.
    """
    terms = {}
    for number, student in enumerate(students):
        others = [other.logits.detach() for other in students if other is not student]
        losses = [kd_loss(student.logits, other, temperature) for other in others]
        terms[f"student{number + 1}/mutual"] = sum(losses) / len(losses)
    return terms


def label_terms(students: Sequence[Features], labels: Tensor) -> dict[str, Tensor]:
    """The cross entropy of every student.

    Args:
        students: The features of every student.

        labels: (B,).

    Returns:
        ``student1/label``, ``student2/label`` and so on.
    """
    return {f"student{i}/label": label_loss(s.logits, labels) for i, s in enumerate(students, 1)}


def ramp_up(epoch: float, epochs: int) -> float:
    """A factor that rises to 1: exp(-5 (1 - e / epochs)^2) in epoch e, counted from 1.

    Args:
        epoch: Fractional epoch, counted from 0. The factor changes from one epoch to the next, not within
            one.

        epochs: Length of the ramp. With 0 the factor is 1 from the start.

    Returns:
        The factor, from exp(-5) to 1.

    Example:
        >>> [round(ramp_up(epoch, 5), 4) for epoch in (0.0, 0.9, 1.0, 4.0, 7.5)]
        [0.0408, 0.0408, 0.1653, 1.0, 1.0]

    Source:
        The fact sheet, section ONE.
    """
    done = min((math.floor(epoch) + 1) / epochs, 1.0) if epochs else 1.0
    return math.exp(-5 * (1 - done) ** 2)
