"""FFSD: students that look elsewhere than their neighbours, and a leader that learns from their fused
features.

Source: Li et al., Distilling a Powerful Student Model via Online Knowledge Distillation, 2021. Numbers are
those of the authors' code. Equations, defaults and reported numbers are in ``kdnb/methods/README.md``,
section FFSD. Fusion and leader are in ``families/leader.py`` and ``families/online.py``, the diversity target
and the self-distillers in ``ffsd/diversity.py``.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from kdnb.errors import InputError, require_choice
from kdnb.functional import attention_map, normalized_mse, require_counts, require_weights, unit_vectors
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

    Student 1 learns as in mutual learning. Every other student is also told to look elsewhere than the one
    before it. A self-distiller turns a learner's last map into targets for its shallower stages. The leader
    learns from the students' fused features, and it is the network that ``export`` returns.

    The loss terms are ``studentN/label`` and ``studentN/mutual``, from the second student on
    ``studentN/diversity`` and ``studentN/self``, then ``fusion/label``, ``fusion/soft``, ``leader/label``,
    ``leader/soft``, ``leader/fusion``, ``leader/decoder``, ``leader/self``, and two terms for every
    self-distiller.

    Args:
        network: Factory: ``network(i)`` builds learner i. Learner 0 is the leader, which is exported.
            Learners 1 to ``students`` are the students.

        students: Number of students, from 2 to 6.

        leader: ``"fusion"`` is the paper's. ``"ensemble"`` has no fusion module, and the leader learns from
            the students' mean logits. ``"none"`` has no leader.

        diversity: How neighbours are kept apart. ``"shift"`` is eqs. 8 and 9 as the authors compute them.
            ``"consistent"`` is ours and compares unit maps with unit maps. ``"l2"`` is eq. 6: minus the
            distance of the attention maps, over all stages, or over the last one if self-distillation cares
            for the others. ``"none"`` has no diversity.

        self_distillation: Whose shallow stages learn: ``"both"``, ``"students"`` (all but the first),
            ``"leader"`` or ``"none"``.

        temperature: Temperature of all soft terms.

        diversity_weight: Weight of diversity and of the students' self-distillation.

        fusion_weight: Weight of the leader's terms on features.

        distiller_weight: Weight of the losses that train the self-distillers.

        distiller_lr: Learning rate of Adam, which trains the self-distillers.

        threshold: Share of positions, those of lowest attention, that keep their attention.

        ramp_epochs: Number of epochs in which the three weights rise to their full value.

    Raises:
        InputError: As ``OnlineDistillation``, if a word is unknown, if the threshold is not between 0 and 1,
            or if the stages of the network do not halve. In training, if the last maps have fewer than 3
            positions.

    Source:
        Li et al., 2021, eqs. 2 to 14.

    Differs:
        The weights, the ramp, and the mixture of unit and raw norms in eq. 8 are those of the authors' code.
        Self-distillation with ``"l2"`` is our reading of Tab. VI: shallow maps keep away from what the
        self-distiller makes of the neighbour's last map.
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
        require_counts(ramp_epochs=ramp_epochs)
        if not 0 < distiller_lr < float("inf"):
            raise InputError(f"distiller_lr must be a finite number above 0, found {distiller_lr!r}.")
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
        """Returns the terms of one student, eqs. 9 and 11, and those of its self-distiller, eq. 10.

        ``index`` is the student's place in the chain, counted from 0.
        """
        weight, name = ramp * self.diversity_weight, f"student{index + 1}"
        if self.diversity == "l2":
            weight, aim = -weight, neighbour.final.detach()
            own, other = stages(student), [map.detach() for map in stages(neighbour)]
            loss = summed(attention_distance, *((own[-1:], [aim]) if self.distillers else (own, other)))
        else:
            target = self._diversity_target(neighbour)
            aim, loss = target.features, diversity_loss(student.final, target.target)
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
        """Returns the terms of one self-distiller, eq. 10.

        From a learner's last map, detached, the self-distiller learns to make the learner's shallower maps.
        """
        *shallow, last = (map.detach() for map in stages(learner))
        made, weight = distiller(last), ramp * self.distiller_weight
        return {
            f"{name}/feature": weight * summed(normalized_mse, made, shallow),
            f"{name}/attention": weight * summed(attention_distance, made, shallow),
        }

    def _diversity_target(self, neighbour: Features) -> Diversity:
        consistent = self.diversity == "consistent"
        return diversity_of(neighbour.final.detach(), threshold=self.threshold, consistent=consistent)

    def optimizers(self, lr: float) -> list[Optimizer]:
        """SGD for the networks and the fusion module, and Adam for the self-distillers.

        Args:
            lr: Learning rate of SGD. Adam has ``distiller_lr``.

        Returns:
            One or two optimizers.
        """
        apart = [*self.distillers] + ([self.leader_distiller] if self.leader_distiller else [])
        learning = [parameter for module in apart for parameter in module.parameters()]
        adam = [Adam(learning, self.distiller_lr, weight_decay=self.weight_decay)] if learning else []
        return [self.sgd(lr, apart=apart), *adam]

    def costs(self, *, size: int = 32) -> dict[str, Cost]:
        """What one of each component costs for one image, the arithmetic of Tab. VII.

        Training needs ``students`` + 1 networks. A self-distiller exists for every learner but the first
        student, and it runs twice: it learns, and it teaches. The exported network costs one network.

        Args:
            size: Height and width of the image in pixels.

        Returns:
            The parameters and multiply-accumulates of ``"network"`` and, if they exist, of ``"fusion"``,
            ``"decoder"`` and ``"self-distiller"``.
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
        """The attention maps of every learner, in eval mode.

        Args:
            images: (B, 3, H, W).

        Returns:
            For every learner a map (B, h, w) for each stage, from shallow to deep.
        """
        return {
            name: tuple(map(attention_map, stages(seen)))
            for name, seen in self._evaluated_features(images).items()
        }

    def diversity_targets(self, images: Tensor) -> dict[str, Diversity]:
        """The diversity target of each student but the first, in eval mode.

        Args:
            images: (B, 3, H, W).

        Returns:
            The target by the student's name.

        Raises:
            InputError: If ``diversity`` is ``"l2"`` or ``"none"``, which have no target.
        """
        if self.diversity not in ("shift", "consistent"):
            raise InputError(f"There is no diversity target with diversity={self.diversity!r}.")
        looks = self._evaluated_features(images)
        pairs = pairwise(self.group)
        return {student: self._diversity_target(looks[neighbour]) for neighbour, student in pairs}

    def shift(self, images: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """How the attention of each student but the first differs from its neighbour's, in eval mode.

        Args:
            images: (B, 3, H, W).

        Returns:
            By the student's name, for each stage, its unit attention map minus that of the student before it,
            (B, h, w). Values above 0 mark positions where it looks more.
        """
        units = {
            name: tuple(unit_vectors(map).view_as(map) for map in maps)
            for name, maps in self.attention(images).items()
        }
        return {
            student: tuple(own - other for own, other in zip(units[student], units[neighbour], strict=True))
            for neighbour, student in pairwise(self.group)
        }

    def self_distilled(self, images: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """The maps that self-distillation gives the shallow stages as targets, in eval mode.

        A student's self-distiller makes them of the neighbour's shifted map, the leader's of the fused map.

        Args:
            images: (B, 3, H, W).

        Returns:
            By the learner's name, a map for each stage but the last, from shallow to deep. Learners without a
            self-distiller are left out.
        """
        looks, aims = self._evaluated_features(images), {}
        chain = pairwise(self.group) if self.distillers else ()
        for (neighbour, student), distiller in zip(chain, self.distillers, strict=True):
            seen = looks[neighbour]
            aim = seen.final if self.diversity == "l2" else self._diversity_target(seen).features
            aims[student] = carried_back(distiller, aim)
        if self.leader_distiller is not None:
            with torch.no_grad(), evaluating(self):
                fused, _ = self.fusion(merge([looks[name] for name in self.group]))
            aims["leader"] = carried_back(self.leader_distiller, fused)
        return aims

    def _evaluated_features(self, images: Tensor) -> dict[str, Features]:
        """Returns the features of every learner, in eval mode, without a graph."""
        with torch.no_grad(), evaluating(self):
            looks = dict(zip(self.group, self.features(images), strict=True))
            return looks | ({} if self.leadership == "none" else {"leader": self.leader.features(images)})
