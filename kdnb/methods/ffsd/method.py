"""FFSD: students that look elsewhere than their neighbours, fused for a leader, the one that is kept.

Source: Li et al., Distilling a Powerful Student Model via Online Knowledge Distillation, 2021; numbers
as in the authors' code (methods.md, section 2). Fusion and leader are in ``methods/families/leader.py``,
the diversity target and the self-distillers in ``methods/ffsd/diversity.py``.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from kdnb.errors import InputError, require_choice
from kdnb.functional import attention_map, normalized_mse, require_weights, unit_vectors
from kdnb.method import evaluating
from kdnb.methods.families.leader import attention_distance, merge
from kdnb.methods.families.online import OnlineDistillation, label_terms, mutual_terms, ramp_up
from kdnb.methods.ffsd.diversity import (
    Diversity,
    SelfDistiller,
    carried_back,
    diversity_loss,
    diversity_of,
    stages,
    summed,
)
from kdnb.networks import Cost, Features, Network, cost

DIVERSITIES = ("shift", "consistent", "l2", "none")
SELF_DISTILLATIONS = ("both", "students", "leader", "none")


class FFSD(OnlineDistillation):
    """Mutual learning, diversity along the chain of students, fusion, self-distillation, a leader.

    network: makes the network of a learner from its number; 0 is the leader, 1 to ``students`` learn
    in common. Student 1 learns as in mutual learning; each other is told to look elsewhere than the
    one before it. A self-distiller carries a learner's last map back to its shallower stages.

    diversity: "shift" is eqs. 8 and 9 as the authors compute them; "consistent" is ours and compares
    unit maps with unit maps; "l2" is eq. 6, minus the distance, of all stages, or of the last one where
    self-distillation cares for the others; "none". self_distillation: whose shallow stages learn:
    "both", the "students" (but the first), the "leader" or "none". leader: see OnlineDistillation.
    diversity_weight: of diversity and the students' self-distillation; fusion_weight: of the leader's
    feature terms; distiller_weight: of training the self-distillers. All three are ramped up over
    ``ramp_epochs``. threshold: share of positions whose attention stays, those of lowest attention.

    Raises InputError as OnlineDistillation does, for an unknown word, for a network whose stages do not
    halve, and in training for last maps of fewer than 3 positions.
    Differs: weights, ramp and eq. 8's mixture of unit and raw norms are the code's; self-distilling
    "l2" is our reading of Tab. VI: shallow maps keep away from the neighbour's, carried back.
    """

    def __init__(
        self,
        network: Callable[[int], Network],
        *,
        students: int = 2,
        leader: str = "fusion",
        diversity: str = "shift",
        self_distillation: str = "both",
        temperature: float = 2.0,
        diversity_weight: float = 1e-5,
        fusion_weight: float = 10.0,
        distiller_weight: float = 1000.0,
        distiller_lr: float = 1e-3,
        threshold: float = 1 / 3,
        ramp_epochs: int = 5,
    ) -> None:
        super().__init__(
            network, students=students, leader=leader, temperature=temperature, fusion_weight=fusion_weight
        )
        require_weights(diversity_weight=diversity_weight, distiller_weight=distiller_weight)
        if not 0 < threshold < 1:
            raise InputError(f"threshold must be a share between 0 and 1, found {threshold!r}.")
        self.diversity = require_choice("diversity", diversity, DIVERSITIES)
        require_choice("self_distillation", self_distillation, SELF_DISTILLATIONS)
        self.diversity_weight, self.distiller_weight = diversity_weight, distiller_weight
        self.distiller_lr, self.threshold, self.ramp_epochs = distiller_lr, threshold, ramp_epochs
        chained = self_distillation in ("both", "students") and diversity != "none"
        self.distillers = nn.ModuleList(SelfDistiller(net) for net in self.students[1:] if chained)
        self.leader_distiller: SelfDistiller | None = None
        if leader == "fusion" and self_distillation in ("both", "leader"):
            self.leader_distiller = SelfDistiller(self.leader)

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        ramp = ramp_up(epoch, self.ramp_epochs)
        students = self.features(images)
        terms = label_terms(students, labels) | mutual_terms(students, self.temperature)
        if self.diversity != "none":
            for index in range(1, len(students)):
                terms |= self._diversity_terms(index, students[index - 1], students[index], ramp)
        led = self.lead(images, labels, students, self.ensemble(students), ramp)
        terms |= led.terms
        if self.leader_distiller is not None:
            aims = carried_back(self.leader_distiller, led.fused)
            distance = summed(attention_distance, stages(led.leader)[:-1], aims)
            terms["leader/self"] = ramp * self.fusion_weight * distance
            terms |= self._distiller_terms("leader_distiller", self.leader_distiller, led.leader, ramp)
        return terms

    def _diversity_terms(
        self, index: int, neighbour: Features, student: Features, ramp: float
    ) -> dict[str, Tensor]:
        """Eqs. 9 and 11 for one student, by its place in the chain, and eq. 10 for its self-distiller."""
        weight, name = ramp * self.diversity_weight, f"student{index + 1}"
        if self.diversity == "l2":
            weight, aim = -weight, neighbour.final.detach()
            own, other = stages(student), [map.detach() for map in stages(neighbour)]
            loss = summed(attention_distance, *((own[-1:], [aim]) if self.distillers else (own, other)))
        else:
            wanted = self._wanted(neighbour)
            aim, loss = wanted.features, diversity_loss(student.final, wanted.target)
        terms = {f"{name}/diversity": weight * loss}
        if self.distillers:
            distiller = self.distillers[index - 1]
            distance = summed(attention_distance, stages(student)[:-1], carried_back(distiller, aim))
            terms[f"{name}/self"] = weight * distance
            terms |= self._distiller_terms(f"distiller{index + 1}", distiller, student, ramp)
        return terms

    def _distiller_terms(
        self, name: str, distiller: SelfDistiller, learner: Features, ramp: float
    ) -> dict[str, Tensor]:
        """Eq. 10: from a learner's last map its distiller learns to make the shallow ones."""
        *shallow, last = (map.detach() for map in stages(learner))
        made, weight = distiller(last), ramp * self.distiller_weight
        return {
            f"{name}/feature": weight * summed(normalized_mse, made, shallow),
            f"{name}/attention": weight * summed(attention_distance, made, shallow),
        }

    def _wanted(self, neighbour: Features) -> Diversity:
        consistent = self.diversity == "consistent"
        return diversity_of(neighbour.final.detach(), threshold=self.threshold, consistent=consistent)

    def optimizers(self, lr: float) -> list[Optimizer]:
        """SGD for the networks and the fusion module, Adam for the self-distillers."""
        apart = [*self.distillers] + ([self.leader_distiller] if self.leader_distiller else [])
        learning = [parameter for module in apart for parameter in module.parameters()]
        adam = [Adam(learning, self.distiller_lr, weight_decay=self.weight_decay)] if learning else []
        return [self.sgd(lr, apart=apart), *adam]

    def costs(self, *, size: int = 32) -> dict[str, Cost]:
        """What one of each component costs for an image of ``size`` pixels a side: Tab. VII's arithmetic.

        In training there are ``students`` + 1 networks, and a self-distiller of every learner but the
        first runs twice, to learn and to teach. What is kept costs one network.
        """
        net, positions = self.students[0], size // self.students[0].reductions[-1]
        width = net.head.in_features
        costs = {"network": cost(net, size=size)}
        if self.leadership == "fusion":
            merged = width * len(self.students)
            costs["fusion"] = cost(self.fusion, size=positions, channels=merged)
            costs["decoder"] = cost(self.decoder, size=positions, channels=width)
        distiller = next(iter(self.distillers), self.leader_distiller)
        if distiller is not None:
            costs["self-distiller"] = cost(distiller, size=positions, channels=width)
        return costs

    def attention(self, images: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """Attention maps (B, h, w) of every stage, from shallow to deep, by learner."""
        return {name: tuple(map(attention_map, stages(seen))) for name, seen in self._look(images).items()}

    def wanted(self, images: Tensor) -> dict[str, Diversity]:
        """What each student but the first is asked for. Raises InputError without a diversity target."""
        if self.diversity not in ("shift", "consistent"):
            raise InputError(f"There is no diversity target with diversity={self.diversity!r}.")
        looks = self._look(images)
        pairs = pairwise(self.group)
        return {student: self._wanted(looks[neighbour]) for neighbour, student in pairs}

    def shift(self, images: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """Unit attention of each student but the first minus its neighbour's, (B, h, w) a stage: where
        it looks more (above 0) and less than the one before it."""
        units = {
            name: tuple(unit_vectors(map).view_as(map) for map in maps)
            for name, maps in self.attention(images).items()
        }
        return {
            student: tuple(own - other for own, other in zip(units[student], units[neighbour], strict=True))
            for neighbour, student in pairwise(self.group)
        }

    def self_distilled(self, images: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """The shallow maps that self-distillation aims at, by learner: what its distiller makes of the
        neighbour's shifted map, or of the fused one."""
        looks, aims = self._look(images), {}
        chain = pairwise(self.group) if self.distillers else ()
        for (neighbour, student), distiller in zip(chain, self.distillers, strict=True):
            seen = looks[neighbour]
            aim = seen.final if self.diversity == "l2" else self._wanted(seen).features
            aims[student] = carried_back(distiller, aim)
        if self.leader_distiller is not None:
            with torch.no_grad(), evaluating(self):
                fused, _ = self.fusion(merge([looks[name] for name in self.group]))
            aims["leader"] = carried_back(self.leader_distiller, fused)
        return aims

    def _look(self, images: Tensor) -> dict[str, Features]:
        """Every learner's features in eval mode, without a graph and without a trace."""
        with torch.no_grad(), evaluating(self):
            looks = dict(zip(self.group, self.features(images), strict=True))
            return looks | ({} if self.leadership == "none" else {"leader": self.leader.features(images)})
