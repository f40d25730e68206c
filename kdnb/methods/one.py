"""ONE: branches of one network, and a gate that mixes them to the teacher of all.

Source: Lan, Zhu and Gong, Knowledge Distillation by On-the-Fly Native Ensemble, NeurIPS 2018; sizes,
temperature and ramp as in the benchmark of OKDDip (methods.md, section 8).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.functional import kd_loss, label_loss
from kdnb.methods.families.online import OnlineDistillation, label_terms, ramp_up
from kdnb.networks import Features, Network
from kdnb.networks.features import staged


class ONE(OnlineDistillation):
    """Students that share all stages but the last; their gated mixture learns, and teaches them.

    Minimises the cross entropy of every branch and of the mixture, and the ramped T^2 KL(mixture ||
    branch). Gradients reach the mixture from all of them. students: branches; ramp_epochs: 80 of 300
    in the benchmark; leader: FFSD's Tab. V, whose feature terms have the same ramp.

    Raises InputError as OnlineDistillation does, and for a network whose stages cannot be shared.
    """

    def __init__(
        self,
        network: Callable[[int], Network],
        *,
        students: int = 4,
        leader: str = "none",
        temperature: float = 3.0,
        fusion_weight: float = 10.0,
        ramp_epochs: int = 80,
    ) -> None:
        super().__init__(
            network, students=students, leader=leader, temperature=temperature, fusion_weight=fusion_weight
        )
        trunk = self.students[0]
        if not isinstance(getattr(trunk, "stages", None), nn.ModuleList) or len(trunk.stages) < 2:
            raise InputError(
                f"ONE's branches share the stages of a network but the last; a {type(trunk).__name__} "
                "does not hold its stages apart. Take one of kdnb's own networks."
            )
        for number in range(1, students):
            self.students[number] = Branch(self.students[number])
        self.gate = Gate(trunk.channels[-2], students)
        self.ramp_epochs = ramp_epochs

    def features(self, images: Tensor) -> list[Features]:
        self.require_batch(images)
        first = self.students[0]
        stem, shared = first.stem(images), []
        for stage in first.stages[:-1]:
            shared.append(stage(shared[-1] if shared else stem))
        branches = [_branch(student, shared[-1]) for student in self.students]
        return [own._replace(stem=stem, maps=(*shared, *own.maps)) for own in branches]

    def ensemble(self, students: Sequence[Features]) -> Tensor:
        """The branches' logits, mixed by the gate: (B, K)."""
        weights = self.gate(students[0].maps[-2])  # (B, m)
        return torch.stack([student.logits for student in students], -1).mul(weights[:, None]).sum(-1)

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        ramp = ramp_up(epoch, self.ramp_epochs)
        students = self.features(images)
        mixture = self.ensemble(students)
        terms = label_terms(students, labels) | {"ensemble/label": label_loss(mixture, labels)}
        for name, student in zip(self.group, students, strict=True):
            terms[f"{name}/soft"] = ramp * kd_loss(student.logits, mixture, self.temperature)
        return terms | self.lead(images, labels, students, mixture, ramp).terms


class Branch(nn.Module):
    """What a student does not share: its last stage, and what lies behind."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.stages, self.head = network.stages[-1:], network.head
        self.last: nn.Module | None = getattr(network, "last", None)


class Gate(nn.Module):
    """How much each branch counts for an image: the last shared map (B, C, h, w) -> (B, m), rows sum to 1."""

    def __init__(self, channels: int, students: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, students), nn.BatchNorm1d(students), nn.ReLU())

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps.mean((2, 3))).softmax(dim=1)


def _branch(student: Network | Branch, shared: Tensor) -> Features:
    return staged(shared, student.stages[-1:], student.head, getattr(student, "last", None))
