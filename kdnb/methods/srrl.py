"""SRRL: the teacher's own classifier judges the student's features.

Source: Yang, Martinez, Bulat and Tzimiropoulos, Knowledge Distillation via Softmax Regression Representation
Learning, ICLR 2021. Equations, defaults and reported numbers are in ``kdnb/methods/README.md``, section SRRL.
"""

from torch import Tensor, nn

from kdnb.errors import InputError, require_choice
from kdnb.functional import mean_squared_error, require_weights
from kdnb.method import evaluating
from kdnb.methods.families.distillation import Distillation, require_stages
from kdnb.networks import Network


class SRRL(Distillation):
    """The student's features should be the teacher's, as the teacher's own classifier sees them.

    A connector brings the student's last map to the teacher's width. The loss terms are ``student/label``,
    ``student/soft`` if ``soft_weight`` is above 0, ``student/feature``, which compares the pooled connector
    output with the teacher's embedding, and ``student/regression``, which compares the logits that the
    teacher's frozen head gives to both. A term with weight 0 is left out, and so is the connector where both
    of its terms are. The gradient of the regression term flows through the head, but never into its weights.

    Args:
        student: A network that shows its stages and has a linear head.

        teacher: A network that shows its stages and has a linear head, with the same classes. It is frozen in
            place.

        pool: Where the mean over the positions is taken: ``"after"`` the connector, as in the authors' code,
            or ``"before"`` it, as in the SimKD port. The two are different functions.

        feature_weight: Weight of feature matching. It is 1 in the authors' code. The authors searched it for
            each pair of networks.

        regression_weight: Weight of softmax regression, likewise.

        label_weight: Weight of the cross entropy.

        soft_weight: Weight of the KD term. It is 0 in the paper and 1 in the SimKD port.

        temperature: Temperature of the KD term.

    Raises:
        InputError: If a network does not show its stages or its head is not linear, if a weight is negative,
            if the temperature is not above 0, or if the numbers of classes differ. In training, if the
            connector would normalise a single value for each channel.

    Source:
        Yang et al., 2021; L_FM and L_SR of the fact sheet, section SRRL.
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
        widths = [_linear_head(role, net).in_features for role, net in networks.items()]
        self.connector = Connector(*widths) if feature_weight or regression_weight else None

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        student, teacher = self.features(images)
        if self.connector is None:
            return self.logit_terms(student.logits, teacher.logits, labels)
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
        """The logits that the teacher's head gives to the student's connected features.

        They are computed in eval mode, and nothing is left behind.

        Args:
            images: (B, 3, H, W).

        Returns:
            Logits (B, K).

        Raises:
            InputError: If there is no connector, because both of its terms have weight 0.
        """
        if self.connector is None:
            raise InputError(
                "With feature_weight and regression_weight both 0 SRRL has no connector, so nothing is "
                "connected. Give one of them a weight above 0."
            )
        with evaluating(self):
            features = self.student.features(images)
            return self.teacher.head(self._connect(features.final, features.embedding))

    def _connect(self, final: Tensor, embedding: Tensor) -> Tensor:
        """Returns the student's vector (B, D_t) in the teacher's space, from its last map and embedding."""
        map = final if self.pool == "after" else embedding[:, :, None, None]
        if self.training and map[:, 0].numel() == 1:
            raise InputError(
                "One image with one position cannot be normalised over the batch. Choose a batch_size "
                "that leaves no single image over, or drop the incomplete last batch."
            )
        return self.connector(map).mean((2, 3))


class Connector(nn.Sequential):
    """A 1 x 1 convolution without bias, batch norm and ReLU, from the student's width to the teacher's.

    It maps (B, C_s, H, W) to (B, C_t, H, W), and it exists even if C_s and C_t are equal. The convolution
    starts normal with a standard deviation of sqrt(2 / C_t), as in the authors' code.

    Args:
        channels_in: C_s.

        channels_out: C_t.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        convolution = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        nn.init.normal_(convolution.weight, std=(2 / channels_out) ** 0.5)
        super().__init__(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def feature_matching_loss(connected: Tensor, embedding: Tensor) -> Tensor:
    """Mean squared difference of pooled features, L_FM.

    Args:
        connected: The student's vectors after the connector, (B, D).

        embedding: The teacher's embeddings, (B, D).

    Returns:
        A scalar, the mean over samples and entries.

    Raises:
        InputError: If the shapes differ.

    Differs:
        The abstract says an L2 loss. The mean over the D entries is that of the authors' code.
    """
    return mean_squared_error(connected, embedding)


def softmax_regression_loss(connected: Tensor, head: nn.Linear, teacher_logits: Tensor) -> Tensor:
    """The softmax regression loss L_SR.

    The teacher's head judges the student's connected features. Its logits should be the teacher's own.

    Args:
        connected: The student's features in the teacher's space (B, D).

        head: The teacher's classifier, from D numbers to K logits.

        teacher_logits: The logits of the teacher (B, K).

    Returns:
        The mean squared difference of the logits over samples and classes, a scalar.

    Differs:
        The abstract says an L2 loss. The mean over the K classes is that of the authors' code.
    """
    return mean_squared_error(head(connected), teacher_logits)


def _linear_head(role: str, net: Network) -> nn.Linear:
    if not isinstance(net.head, nn.Linear):
        raise InputError(
            f"The {role}'s head is a {type(net.head).__name__}; SRRL needs a linear layer on pooled "
            f"features, so that one network's can judge the other's. Choose such a {role}."
        )
    return net.head
