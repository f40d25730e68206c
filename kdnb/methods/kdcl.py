"""KDCL: students that each see a view of their own, and learn from one mixture of their answers.

Source: Guo et al., Online Knowledge Distillation via Collaborative Learning, CVPR 2020. There is no official
code. Equations, defaults and reported numbers are in ``kdnb/methods/README.md``, section KDCL.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.datasets import Batch
from kdnb.errors import InputError, require_choice
from kdnb.functional import at_least_float32, kd_loss, label_loss, require_weights
from kdnb.method import Method, Parts, evaluating
from kdnb.methods.families.online import OnlineDistillation
from kdnb.networks import Network

TARGETS = ("naive", "linear", "min-logit", "general")
NEWTON_STEPS = 12
STEP_SIZES = 8  # each is half of the one before; the first is 1


class KDCL(OnlineDistillation):
    """Students of one architecture learn from one target that is made of the answers of all.

    The loss terms are, for every student, ``studentN/label`` and, if ``soft_weight`` is above 0,
    ``studentN/soft``, which is T^2 KL(target || student). The target gets no gradient. Each student sees its
    own augmentation of the same images.

    Args:
        network: Factory: ``network(i)`` builds student i. Student 0 is the exported one.

        held_out: Batches of images that are not trained on. Only ``target="general"`` needs them. ``kdnb
            train`` gives the validation part, so its choice of an epoch is not quite independent of training.

        students: Number of students, from 2 to 6.

        target: How the target logits are made. ``"naive"`` takes, for every image, the logits of the student
            with the lowest cross entropy. ``"linear"`` takes the convex mixture of the students' logits with
            the lowest cross entropy in the batch. ``"min-logit"`` takes, for every class, the least of the
            students' logits, each counted from that student's logit of the true class. ``"general"`` takes a
            mixture whose weights have the least squared error on the held-out images. They are found anew in
            every epoch.

        temperature: T.

        soft_weight: Weight of the soft terms.

        separate_views: If True, every student sees a view of its own. If False, all see the same images.

    Raises:
        InputError: If there are fewer than 2 or more than 6 students, if the target is unknown, if an option
            is out of range, or if the general target has no held-out images. In training, if a batch has too
            few views.

    Source:
        Guo et al., 2020; the fact sheet, section KDCL.

    Differs:
        It is not known whether the paper chooses the naive target for an image or for a batch. Here it is
        chosen for an image. General weights may be negative, as the equation allows.
    """

    weight_decay = 5e-4

    def __init__(
        self,
        network: Callable[[int], Network],
        held_out: Iterable[Batch | tuple[Tensor, Tensor]] | None = None,
        *,
        students: int = 2,
        target: str = "general",
        temperature: float = 2.0,
        soft_weight: float = 1.0,
        separate_views: bool = True,
    ) -> None:
        super().__init__(
            network, students=students, leader="none", temperature=temperature, fusion_weight=0.0
        )
        require_weights(soft_weight=soft_weight)
        self.target = require_choice("target", target, TARGETS)
        if target == "general" and held_out is None:
            raise InputError(
                "target='general' weighs the students by their errors on images held out; give held_out="
                "data.batches('validation'), or choose another target."
            )
        self.soft_weight, self.separate_views = soft_weight, separate_views
        self.held_out = held_out if target == "general" else None
        self.views = students - 1 if separate_views else 0
        self.register_buffer("weights", torch.full((students,), 1 / students))

    @classmethod
    def assemble(cls, parts: Parts, **options: object) -> Method:
        """Builds the method from the factory of networks and the images held out of ``parts``."""
        return cls(parts.network, parts.held_out, **options)

    @torch.no_grad()
    def begin_epoch(self, number: int) -> None:
        """Finds the weights of the general target with the students as they are now.

        Args:
            number: Number of the epoch, counted from 0. It is not used.
        """
        if self.held_out is None:
            return
        like, errors = self.weights, []
        with evaluating(self):
            for images, labels in self.held_out:
                logits = torch.stack([student(images.to(like)) for student in self.students])
                errors.append(class_errors(logits, labels.to(like.device)))
        self.weights.copy_(general_weights(torch.cat(errors, 1)))

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Returns the loss terms. Student i sees view i.

        Args:
            batch: The images (B, 3, H, W), their labels (B,), and ``views`` for all students but the first.

            epoch: Fractional epoch. It is not used.

        Returns:
            The weighted terms, scalars by name.

        Raises:
            InputError: If the batch has too few views.
        """
        if not self.separate_views:
            return self.losses(batch.images, batch.labels, epoch)
        if len(batch.views) < self.views:
            raise InputError(
                f"KDCL shows each of its {len(self.students)} students a view of its own, which takes "
                f"{self.views} further views of a batch; found {len(batch.views)}. Train it on augmented "
                "Batches, let your loader yield Batch(images, labels, views=...), or choose "
                "separate_views=False."
            )
        views = (batch.images, *batch.views)
        return self._terms(
            [student(view) for student, view in zip(self.students, views, strict=False)], batch.labels
        )

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        """Returns the loss terms if all students see the same images.

        Args:
            images: (B, 3, H, W).

            labels: (B,).

            epoch: Fractional epoch. It is not used.

        Returns:
            The weighted terms, scalars by name.
        """
        return self._terms([student(images) for student in self.students], labels)

    def _terms(self, logits: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        target = self.target_logits(torch.stack(list(logits)).detach(), labels)
        terms = {}
        for name, own in zip(self.group, logits, strict=True):
            terms[f"{name}/label"] = label_loss(own, labels)
            if self.soft_weight:
                terms[f"{name}/soft"] = self.soft_weight * kd_loss(own, target, self.temperature)
        return terms

    @torch.no_grad()
    def target_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The target of all students.

        Args:
            logits: The logits of every student (m, B, K).

            labels: (B,).

        Returns:
            Logits (B, K), without a graph.
        """
        logits = at_least_float32(logits)
        if self.target == "naive":
            return best_logits(logits, labels)
        if self.target == "min-logit":
            return least_logits(logits, labels)
        weights = linear_weights(logits, labels) if self.target == "linear" else self.weights
        return torch.einsum("m,mbk->bk", weights.to(logits.dtype), logits)


def best_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """For every image the logits of the student with the lowest cross entropy: the naive target.

    Args:
        logits: (m, B, K).

        labels: (B,).

    Returns:
        Logits (B, K).
    """
    losses = torch.stack([F.cross_entropy(own, labels, reduction="none") for own in logits])  # (m, B)
    best = losses.argmin(0)
    return logits.gather(0, best[None, :, None].expand(1, *logits.shape[1:])).squeeze(0)


def least_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """For every class the least of the students' z_k - z_y: the min-logit target.

    The cross entropy of the result is at most that of the best student, for every image.

    Args:
        logits: (m, B, K).

        labels: (B,).

    Returns:
        Logits (B, K). The logit of the true class is 0.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, -3.0, 1.0]]])  # two students, one image
        >>> least_logits(logits, torch.tensor([0])).tolist()
        [[0.0, -3.0, -2.0]]
    """
    true = logits.gather(2, labels[None, :, None].expand(len(logits), -1, 1))  # (m, B, 1)
    return (logits - true).amin(0)


def class_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities minus the one-hot label.

    Args:
        logits: (m, B, K).

        labels: (B,).

    Returns:
        Errors (m, B, K) in float64.
    """
    return logits.double().softmax(2) - F.one_hot(labels, logits.shape[2])


def general_weights(errors: Tensor) -> Tensor:
    """The weights of the mixture of probabilities with the least squared error. They sum to 1.

    w_k = sum_j (C^-1)_kj / sum_ij (C^-1)_ij, where C_ij is the mean inner product of the errors of students i
    and j.

    Args:
        errors: ``class_errors`` of all images (m, N, K).

    Returns:
        Weights (m,). They may be negative.
    """
    rows = errors.flatten(1)
    covariance = rows @ rows.T / errors.shape[1]
    inverse = torch.linalg.pinv(covariance, hermitian=True)  # also where two students agree
    return inverse.sum(1) / inverse.sum()


def linear_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """The convex weights whose mixture of logits has the lowest cross entropy.

    The cross entropy is convex in the weights. Newton's method minimises its quadratic model over the simplex
    exactly, by trying every set of students with weights above 0, and takes the best of a few step sizes. No
    operation waits for the device.

    Args:
        logits: (m, B, K).

        labels: (B,).

    Returns:
        Weights (m,) in float64. They are at least 0 and sum to 1.
    """
    logits = logits.double()
    sizes = torch.exp2(-torch.arange(STEP_SIZES, dtype=logits.dtype, device=logits.device))  # 1, 1/2, ...
    weights = logits.new_full((len(logits),), 1 / len(logits))
    for _ in range(NEWTON_STEPS):
        probabilities = torch.einsum("m,mbk->bk", weights, logits).softmax(1)
        centred = logits - (probabilities * logits).sum(2, keepdim=True)
        hessian = torch.einsum("bk,mbk,nbk->mn", probabilities, centred, centred) / len(labels)
        errors = probabilities - F.one_hot(labels, logits.shape[2])
        gradient = torch.einsum("bk,mbk->m", errors, logits) / len(labels)
        aim = _simplex_minimum(hessian, gradient - hessian @ weights)
        tried = torch.cat((weights[None], weights + sizes[:, None] * (aim - weights)))  # (S + 1, m)
        mixtures = torch.einsum("sm,mbk->sbk", tried, logits)
        losses = F.cross_entropy(mixtures.flatten(0, 1), labels.repeat(len(tried)), reduction="none").view(
            len(tried), -1
        )
        weights = tried[losses.mean(1).argmin()[None]][0]
    return weights


def _simplex_minimum(hessian: Tensor, slope: Tensor) -> Tensor:
    """Returns the point (m,) of the simplex where x H x / 2 + slope x is least.

    Every set of corners is tried.
    """
    count = len(slope)
    ridge = 1e-10 * hessian.diagonal().sum() + 1e-12
    hessian = hessian + ridge * torch.eye(count, dtype=slope.dtype, device=slope.device)
    sets = torch.arange(1, 2**count, device=slope.device)[:, None]  # made there: a list would have to be sent
    places = torch.arange(count - 1, -1, -1, device=slope.device)
    used = (sets >> places & 1).to(slope.dtype)  # every set of corners but the empty one
    inner = used[:, :, None] * used[:, None] * hessian + torch.diag_embed(1 - used)  # (sets, m, m)
    system = torch.zeros(len(used), count + 1, count + 1, dtype=slope.dtype, device=slope.device)
    system[:, :count, :count] = inner
    system[:, :count, count] = system[:, count, :count] = used
    right = torch.cat((-used * slope, torch.ones_like(used[:, :1])), 1)
    points = torch.linalg.solve_ex(system, right)[0][:, :count]  # (sets, m)
    values = (points @ hessian * points).sum(1) / 2 + points @ slope
    values = torch.where((points >= -1e-12).all(1), values, torch.inf)
    return points[values.argmin()[None]][0].clamp(min=0)
