"""FitNet: one hidden layer of the student imitates one of the teacher's, through a regressor.

Source: Romero et al., FitNets: Hints for Thin Deep Nets, 2015, eq. 3.
"""

from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.functional import mean_squared_error, of_equal_size, require_weights
from kdnb.methods.families.distillation import Distillation, require_stages
from kdnb.networks import Network


class FitNet(Distillation):
    """One hidden stage of the student imitates the teacher's, through a regressor.

    Minimises CE and the mean squared error of the regressed map; KD as well where ``soft_weight`` is
    set.

    stage: which one gives the hint, counted from 1: 2 in RepDistiller, 1 in the SemCKD repository.
    hint_weight: 100, the benchmark's. soft_weight: 0 as in RepDistiller's table, 1 as in SemCKD's.

    Raises InputError for a stage that one of the networks does not have.
    Differs: trained in one stage with the labels, as the benchmarks do; the paper first trains the
    student up to the hint, then everything by KD.
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
    """Convolution, BN, ReLU, from the student's width and size to the teacher's:
    (B, C_s, H, W) -> (B, C_t, H', W').

    enlargement: teacher's size over the student's. At 1/2 a 3 x 3 convolution of stride 2, at 2 a
    transposed 4 x 4 one, at 1 a 1 x 1 one.
    Differs: at any other ratio a 3 x 3 convolution keeps the size, and the larger map is averaged.
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
    """Mean squared error over samples, channels and positions (B, C, H, W): a scalar.

    The larger map is averaged to the smaller's size. Raises InputError for maps of different
    images or widths.
    """
    return mean_squared_error(*of_equal_size(regressed, hint))
