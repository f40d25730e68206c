"""DML: students that teach each other by their predictions.

Source: Zhang et al., Deep Mutual Learning, CVPR 2018, eqs. 5 to 8. Equations, defaults and reported numbers
are in ``kdnb/methods/README.md``, section DML.
"""

from collections.abc import Callable

from torch import Tensor

from kdnb.functional import require_counts
from kdnb.methods.families.online import OnlineDistillation, label_terms, mutual_terms, ramp_up
from kdnb.networks import Network


class DML(OnlineDistillation):
    """Every student minimises its cross entropy and the mean of T^2 KL(other || self) over the others.

    The loss terms are ``studentN/label`` and ``studentN/mutual`` for every student, and those of the leader
    if there is one (``OnlineDistillation.lead``). A target gets no gradient.

    Args:
        network: Factory: ``network(i)`` builds learner i. Learner 0 is the exported one.

        students: Number of students that teach each other, from 2 to 6.

        leader: ``"none"`` is the paper's method. ``"fusion"`` adds FFSD's leader, as in FFSD's Tab. V.
            ``"ensemble"`` adds a leader that learns from the students' mean logits.

        temperature: T. The paper has 1.

        fusion_weight: Weight of the leader's terms on features.

        ramp_epochs: Number of epochs in which the weight of those terms rises to its full value.

    Raises:
        InputError: As ``OnlineDistillation``.

    Source:
        Zhang et al., 2018, eqs. 5 to 8.

    Differs:
        All students move at once, from the same predictions. The paper moves them in turn. The weight decay
        of 1e-4 and the Nesterov momentum are FFSD's.
    """

    def __init__(
        self,
        network: Callable[[int], Network],
        *,
        students: int = 2,
        leader: str = "none",
        temperature: float = 1.0,
        fusion_weight: float = 10.0,
        ramp_epochs: int = 5,
    ) -> None:
        super().__init__(
            network, students=students, leader=leader, temperature=temperature, fusion_weight=fusion_weight
        )
        require_counts(ramp_epochs=ramp_epochs)
        self.ramp_epochs = ramp_epochs

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        students = self.features(images)
        terms = label_terms(students, labels) | mutual_terms(students, self.temperature)
        ramp = ramp_up(epoch, self.ramp_epochs)
        return terms | self.lead(images, labels, students, self.ensemble(students), ramp).terms
