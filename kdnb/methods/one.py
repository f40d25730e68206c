"""ONE: branches of one network, and a gate that mixes them to a teacher for all.

Source: Lan, Zhu and Gong, Knowledge Distillation by On-the-Fly Native Ensemble, NeurIPS 2018. Sizes,
temperature and ramp are those of OKDDip's benchmark. Equations, defaults and reported numbers are in
``kdnb/methods/README.md``, section ONE.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.functional import kd_loss, label_loss, require_counts
from kdnb.methods.families.online import OnlineDistillation, label_terms, ramp_up
from kdnb.networks import Features, Network
from kdnb.networks.features import staged


class ONE(OnlineDistillation):
    """Students that share all stages but the last; their gated mixture learns, and teaches them.

    The loss terms are ``studentN/label`` and ``studentN/soft`` for every branch, ``ensemble/label`` for the
    mixture, and those of the leader if there is one. A soft term is T^2 KL(mixture || branch) times the ramp.
    The mixture is not detached, so the soft terms move the gate and the other branches, too.

    Args:
        network: Factory: ``network(i)`` builds learner i. Learner 0 is the exported one. Without a leader it
            is the trunk and the first branch.

        students: Number of branches, from 2 to 6.

        leader: ``"none"`` is the paper's method. ``"fusion"`` adds FFSD's leader, as in FFSD's Tab. V.
            ``"ensemble"`` adds a leader that learns from the mixture's logits.

        temperature: T. OKDDip has 3.

        fusion_weight: Weight of the leader's terms on features.

        ramp_epochs: Number of epochs in which the soft terms and the leader's terms on features rise to their
            full weight. OKDDip has 80 of 300 epochs.

    Raises:
        InputError: As ``OnlineDistillation``, and if the network does not hold its stages in a ``stages``
            list of two or more.

    Source:
        Lan, Zhu and Gong, 2018; the fact sheet, section ONE.

    Differs:
        OKDDip has a weight decay of 5e-4. It is 1e-4 here, as in all online methods of the package.
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
        require_counts(ramp_epochs=ramp_epochs)
        self.ramp_epochs = ramp_epochs

    def features(self, images: Tensor) -> list[Features]:
        """The features of every branch, from one pass through the shared stages.

        Args:
            images: (B, 3, H, W).

        Returns:
            One ``Features`` for each branch. The stem and all maps but the last are the same tensors.

        Raises:
            InputError: If there is a single image in training.
        """
        self.require_batch(images)
        first = self.students[0]
        stem, shared = first.stem(images), []
        for stage in first.stages[:-1]:
            shared.append(stage(shared[-1] if shared else stem))
        branches = [_branch(student, shared[-1]) for student in self.students]
        return [own._replace(stem=stem, maps=(*shared, *own.maps)) for own in branches]

    def ensemble(self, students: Sequence[Features]) -> Tensor:
        """The branches' logits, mixed by the gate.

        Args:
            students: The features of every branch.

        Returns:
            Logits (B, K).
        """
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
    """The layers that a student does not share: its last stage, and what lies behind it.

    Args:
        network: The network from which these layers are taken.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.stages, self.head = network.stages[-1:], network.head
        self.last: nn.Module | None = getattr(network, "last", None)


class Gate(nn.Module):
    """The weight of each branch for an image, from the last shared map.

    It maps (B, C, h, w) to (B, m), and each row sums to 1.

    Args:
        channels: C.

        students: m, the number of branches.
    """

    def __init__(self, channels: int, students: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, students), nn.BatchNorm1d(students), nn.ReLU())

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps.mean((2, 3))).softmax(dim=1)


def _branch(student: Network | Branch, shared: Tensor) -> Features:
    return staged(shared, student.stages[-1:], student.head, getattr(student, "last", None))
