"""Online distillation: what all methods have in common whose students teach each other, and the leader
that learns from their fused features.

Source of fusion and leader: Li et al., Distilling a Powerful Student Model via Online Knowledge
Distillation (FFSD), 2021, section III-B; Tab. V adds the same leader to other methods.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from kdnb.errors import InputError, require_choice
from kdnb.functional import kd_loss, label_loss, positive_temperature, require_weights
from kdnb.method import Method, Parts
from kdnb.methods.families.distillation import require_stages
from kdnb.methods.families.leader import LEADERS, Fusion, LeaderPass, attention_distance, merge, separable
from kdnb.networks import Features, Network


class OnlineDistillation(Method):
    """``students`` networks of one architecture that teach each other, and perhaps a leader.

    network: makes the network of a learner from its number. Number 0 is the one that ``export`` keeps:
    the leader, or the first student where there is none.
    leader: "fusion" is FFSD's, which learns from the students' fused maps; "ensemble" learns from
    their mean logits alone; "none" is none. fusion_weight: of the leader's terms on features.

    Raises InputError for fewer than 2 or more than 6 students, a temperature that is not above 0, a
    negative weight, networks that do not show their stages, and in training for a single image.
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
        """Every student's, from one pass each."""
        self.require_batch(images)
        return [student.features(images) for student in self.students]

    def require_batch(self, images: Tensor) -> None:
        """Raises InputError for a single image in training."""
        if self.training and len(images) < 2:
            raise InputError(
                "A batch of one image cannot train students with batch norm. Choose a batch size that "
                "leaves no single image at the end of an epoch."
            )

    def ensemble(self, students: Sequence[Features]) -> Tensor:
        """The students' mean logits (B, K)."""
        return torch.stack([student.logits for student in students]).mean(0)

    def lead(
        self, images: Tensor, labels: Tensor, students: Sequence[Features], ensemble: Tensor, ramp: float
    ) -> LeaderPass:
        """The terms of the fusion module (eq. 4) and of the leader (eqs. 5, 14 but for self-distillation).

        Nothing flows back to the students. ensemble: their logits (B, K). ramp: factor of the terms on
        features.
        Differs: distances of eq. 5 are those of unit attention maps, as in the authors' code.
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
        """Logits (B, K) of every student, of their ensemble, of fusion and leader if any."""
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
        """For all that learns but the modules ``apart``; the fusion module has a tenth of the weight
        decay, as in the authors' code."""
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
    """Every student's soft term: the mean of its T^2 KL(other || self) over the others, which are
    detached. Source: Zhang et al., Deep Mutual Learning, 2018, eqs. 5 to 8; FFSD, eqs. 2 and 3."""
    terms = {}
    for number, student in enumerate(students):
        others = [other.logits.detach() for other in students if other is not student]
        losses = [kd_loss(student.logits, other, temperature) for other in others]
        terms[f"student{number + 1}/mutual"] = sum(losses) / len(losses)
    return terms


def label_terms(students: Sequence[Features], labels: Tensor) -> dict[str, Tensor]:
    """Every student's cross entropy."""
    return {f"student{i}/label": label_loss(s.logits, labels) for i, s in enumerate(students, 1)}


def ramp_up(epoch: float, epochs: int) -> float:
    """exp(-5 (1 - e / epochs)^2) in the e-th epoch, counted from 1, until it is 1 for good."""
    done = min((math.floor(epoch) + 1) / epochs, 1.0) if epochs else 1.0
    return math.exp(-5 * (1 - done) ** 2)
