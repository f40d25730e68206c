"""FitNet: one hidden layer of the student imitates one of the teacher's, through a regressor.

Source: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3. Equations, defaults and reported
numbers are in ``kdnb/methods/README.md``, section FitNet.
"""

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.functional import mean_squared_error, of_equal_size, require_weights
from kdnb.methods.families.distillation import Distillation, require_stages
from kdnb.networks import Network


class FitNet(Distillation):
    """One hidden stage of the student imitates the teacher's, through a regressor.

    The loss terms are ``student/label``, ``student/soft`` if ``soft_weight`` is above 0, and
    ``student/hint``, the mean squared error of the regressed map.

    Args:
        student: A network that shows its stages.

        teacher: A network that shows its stages, with the same classes. It is frozen in place.

        stage: The stage that gives and receives the hint, counted from 1. RepDistiller has 2, SemCKD has 1.

        hint_weight: Weight of the hint term. RepDistiller has 100.

        label_weight: Weight of the cross entropy.

        soft_weight: Weight of the KD term. It is 0 in RepDistiller's table and 1 in SemCKD's table.

        temperature: Temperature of the KD term.

    Raises:
        InputError: If one of the networks does not have the stage, if a weight is negative, if the
            temperature is not above 0, or if the numbers of classes differ.

    Source:
        Romero et al., 2015, eq. 3.

    Differs:
        Everything is trained in one stage, as in the benchmarks. The paper first trains the student up to the
        hint and then the whole student by KD.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        *,
        stage: int = 2,
        hint_weight: float = 100.0,
        label_weight: float = 1.0,
        soft_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(
            student, teacher, label_weight=label_weight, soft_weight=soft_weight, temperature=temperature
        )
        require_stages(student=student, teacher=teacher)
        require_weights(hint_weight=hint_weight)
        stages = min(len(student.channels), len(teacher.channels))
        if not 1 <= stage <= stages:
            raise InputError(f"stage must be from 1 to {stages}, which both networks have; found {stage}.")
        self.stage, self.hint_weight = stage, hint_weight
        at = stage - 1
        enlargement = student.reductions[at] / teacher.reductions[at]
        self.regressor = Regressor(student.channels[at], teacher.channels[at], enlargement)

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        student, teacher = self.features(images)
        at = self.stage - 1
        hint = hint_loss(self.regressor(student.maps[at]), teacher.maps[at])
        terms = self.logit_terms(student.logits, teacher.logits, labels)
        return terms | {"student/hint": self.hint_weight * hint}


class Regressor(nn.Sequential):
    """A convolution, batch norm and ReLU from the student's width and size to the teacher's.

    It maps (B, C_s, H, W) to (B, C_t, H', W').

    Args:
        channels_in: C_s, the channels of the student's map.

        channels_out: C_t, the channels of the teacher's map.

        enlargement: Height of the teacher's map over height of the student's. At 1 the convolution is 1 x 1.
            At 1/2 it is 3 x 3 with stride 2. At 2 it is a transposed 4 x 4 convolution with stride 2. At any
            other ratio a 3 x 3 convolution keeps the size, and ``hint_loss`` averages the larger map.

    Differs:
        RepDistiller has no layer for other ratios of a smaller student. The last case is SemCKD's.
    """

    def __init__(self, channels_in: int, channels_out: int, enlargement: float) -> None:
        shape = channels_in, channels_out
        if enlargement == 1:
            layer: nn.Module = nn.Conv2d(*shape, 1)
        elif enlargement == 0.5:
            layer = nn.Conv2d(*shape, 3, stride=2, padding=1)
        elif enlargement == 2:
            layer = nn.ConvTranspose2d(*shape, 4, stride=2, padding=1)
        else:
            layer = nn.Conv2d(*shape, 3, padding=1)
        super().__init__(layer, nn.BatchNorm2d(channels_out), nn.ReLU())


def hint_loss(regressed: Tensor, hint: Tensor) -> Tensor:
    """Mean squared error over samples, channels and positions.

    Args:
        regressed: The regressor's output (B, C, H, W).

        hint: The teacher's map (B, C, H', W') of the same images. The larger of the two maps is averaged down
            to the size of the smaller.

    Returns:
        A scalar.

    Raises:
        InputError: If the numbers of images or of channels differ.
    """
    return mean_squared_error(*of_equal_size(regressed, hint))
