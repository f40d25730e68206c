"""SRRL: the teacher's own classifier judges the student's features.

Source: Yang, Martinez, Bulat and Tzimiropoulos, Knowledge Distillation via Softmax Regression
Representation Learning, ICLR 2021.
"""

from torch import Tensor, nn

from kdnb.errors import InputError, require_choice
from kdnb.functional import mean_squared_error, require_weights
from kdnb.method import evaluating
from kdnb.methods.families.distillation import Distillation, require_stages
from kdnb.networks import Network


class SRRL(Distillation):
    """The student's features should be the teacher's, as the teacher's own classifier sees them.

    Minimises CE + feature matching + softmax regression; each alone where the other's weight is 0.
    The student's last map passes a connector to the teacher's width; its pooled vector should equal
    the teacher's embedding (feature matching) and get the teacher's logits from the teacher's own,
    frozen head (softmax regression). The gradient flows through that head, never into it.

    pool: "after" the connector, as in the authors' code, or "before" it, as in the SimKD port.
    feature_weight, regression_weight: 1 in the paper; the authors searched them for each pair of
    networks. soft_weight: 0 in the paper, 1 (T = 4) in the SimKD port.

    Raises InputError for networks that do not show their stages, for heads that are not linear, and in
    training for a single value a channel.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        *,
        pool: str = "after",
        feature_weight: float = 1.0,
        regression_weight: float = 1.0,
        label_weight: float = 1.0,
        soft_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(
            student, teacher, label_weight=label_weight, soft_weight=soft_weight, temperature=temperature
        )
        networks = {"student": student, "teacher": teacher}
        require_stages(**networks)
        require_weights(feature_weight=feature_weight, regression_weight=regression_weight)
        self.pool = require_choice("pool", pool, ("after", "before"))
        self.feature_weight, self.regression_weight = feature_weight, regression_weight
        widths = (_linear_head(role, net).in_features for role, net in networks.items())
        self.connector = Connector(*widths)

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        student, teacher = self.features(images)
        connected = self._connect(student.final, student.embedding)
        terms = self.logit_terms(student.logits, teacher.logits, labels)
        if self.feature_weight:
            matching = feature_matching_loss(connected, teacher.embedding)
            terms["student/feature"] = self.feature_weight * matching
        if self.regression_weight:
            regression = softmax_regression_loss(connected, self.teacher.head, teacher.logits)
            terms["student/regression"] = self.regression_weight * regression
        return terms

    def connected_logits(self, images: Tensor) -> Tensor:
        """What the teacher's head says of the student's connected features: logits (B, K), in eval
        mode."""
        with evaluating(self):
            features = self.student.features(images)
            return self.teacher.head(self._connect(features.final, features.embedding))

    def _connect(self, final: Tensor, embedding: Tensor) -> Tensor:
        """The student's vector in the teacher's space: (B, D_t)."""
        map = final if self.pool == "after" else embedding[:, :, None, None]
        if self.training and map[:, 0].numel() == 1:
            raise InputError(
                "One image with one position cannot be normalised over the batch. Choose a batch_size "
                "that leaves no single image over, or drop the incomplete last batch."
            )
        return self.connector(map).mean((2, 3))


class Connector(nn.Sequential):
    """1 x 1 convolution, BN, ReLU: (B, C_s, H, W) -> (B, C_t, H, W); there even where C_s = C_t."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        convolution = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        nn.init.normal_(convolution.weight, std=(2 / channels_out) ** 0.5)
        super().__init__(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def feature_matching_loss(connected: Tensor, embedding: Tensor) -> Tensor:
    """Mean squared difference of pooled features (B, D), over samples and entries: a scalar; L_FM.

    Differs: a mean over the D entries, as in the authors' code, where the paper has a squared norm.
    """
    return mean_squared_error(connected, embedding)


def softmax_regression_loss(connected: Tensor, head: nn.Linear, teacher_logits: Tensor) -> Tensor:
    """Mean squared difference of the logits (B, K) that the teacher's head gives to the student's
    connected features (B, D) and to its own, over samples and classes: a scalar; L_SR.

    Differs: a mean over the K classes, as in the authors' code, where the paper has a squared norm.
    """
    return mean_squared_error(head(connected), teacher_logits)


def _linear_head(role: str, net: Network) -> nn.Linear:
    if not isinstance(net.head, nn.Linear):
        raise InputError(
            f"The {role}'s head is a {type(net.head).__name__}; SRRL needs a linear layer on pooled "
            f"features, so that one network's can judge the other's. Choose such a {role}."
        )
    return net.head
