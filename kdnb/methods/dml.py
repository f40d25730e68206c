"""DML: students that teach each other by their predictions.

Source: Zhang et al., Deep Mutual Learning, CVPR 2018, eqs. 5 to 8.
"""

from collections.abc import Callable

from torch import Tensor

from kdnb.methods.families.online import OnlineDistillation, label_terms, mutual_terms, ramp_up
from kdnb.networks import Network


class DML(OnlineDistillation):
    """Every student minimises its cross entropy and the mean of T^2 KL(other || self) over the others.

    See OnlineDistillation for the arguments; leader="fusion" is FFSD's Tab. V.
    Differs: the students move at once, from the same predictions; the paper moves them in turn.
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
        self.ramp_epochs = ramp_epochs

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        students = self.features(images)
        terms = label_terms(students, labels) | mutual_terms(students, self.temperature)
        ramp = ramp_up(epoch, self.ramp_epochs)
        return terms | self.lead(images, labels, students, self.ensemble(students), ramp).terms
