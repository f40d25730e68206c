"""CRD: student and teacher agree about one image and disagree about all others.

Source: Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020. Defaults are those of
the authors' benchmark. Equations, defaults and reported numbers are in ``kdnb/methods/README.md``, section
CRD.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.datasets import Batch
from kdnb.errors import InputError
from kdnb.functional import at_least_float32, positive_temperature, require_counts, require_weights
from kdnb.method import Method, Parts
from kdnb.methods.families.distillation import Distillation, require_stages
from kdnb.methods.families.memory import ImageNumbers, MemoryBank, gathered
from kdnb.networks import Network

NEGATIVES = 16384


class CRD(Distillation):
    """The student's vector of an image should be near the teacher's of the same image, far from others'.

    A linear layer brings the embedding of each network to a unit vector of ``width`` entries. Both layers
    learn. Two memories keep one vector of every training image, one for each network. The loss terms are
    ``student/label``, ``student/soft`` if ``soft_weight`` is above 0, and ``student/contrast``, which is
    ``contrastive_loss`` of the student's vectors against the teacher's memory plus that of the teacher's
    vectors against the student's memory.

    Args:
        student: A network that shows its stages.

        teacher: A network that shows its stages, with the same classes. It is frozen in place.

        labels: The classes of all images that are trained on (N,), int64.

        indices: ``Batch.indices`` of these images (N,), int64. None numbers them from 0.

        width: Number of entries in a vector.

        negatives: Number of images of other classes that each image is compared with. None means 16384, or
            all that every class has if the data have fewer.

        contrast_temperature: Temperature by which the inner products are divided.

        bank_momentum: Share of the old row when a memory is updated.

        contrast_weight: Weight of the contrastive term.

        label_weight: Weight of the cross entropy.

        soft_weight: Weight of the KD term.

        temperature: Temperature of the KD term.

    Raises:
        InputError: If a network does not show its stages, if an option is out of range, if there are fewer
            than two classes, or if there are fewer images of other classes than negatives.

    Source:
        Tian et al., 2020, eqs. 7 to 10 and 17 to 19.

    Differs:
        The authors draw the negatives of an image on the host. Here they are drawn on the device: every image
        takes a window, at a random place, of one random order of all images, and leaves out its own class.
        Each set is uniform and without repetition, as theirs, but two images of a batch may share some
        negatives. The scores are one product with the whole memory and a gather, which equals gathering the
        rows first.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        labels: Tensor,
        indices: Tensor | None = None,
        *,
        width: int = 128,
        negatives: int | None = None,
        contrast_temperature: float = 0.07,
        bank_momentum: float = 0.5,
        contrast_weight: float = 0.8,
        label_weight: float = 1.0,
        soft_weight: float = 0.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(
            student, teacher, label_weight=label_weight, soft_weight=soft_weight, temperature=temperature
        )
        require_stages(student=student, teacher=teacher)
        require_weights(contrast_weight=contrast_weight)
        require_counts(width=width)
        if width < 1 or not 0 <= bank_momentum < 1:
            raise InputError(
                f"width must be at least 1 and bank_momentum in [0, 1), found {width} and {bank_momentum}."
            )
        self.negatives = _negatives(labels, negatives)
        self.longest_class = int(labels.bincount().max())
        self.contrast_temperature = positive_temperature(contrast_temperature)
        self.bank_momentum, self.contrast_weight = bank_momentum, contrast_weight
        self.numbers = ImageNumbers(torch.arange(len(labels)) if indices is None else indices, labels)
        self.student_vector = nn.Linear(student.head.in_features, width)
        self.teacher_vector = nn.Linear(teacher.head.in_features, width)
        self.student_bank, self.teacher_bank = (MemoryBank(len(labels), width) for _ in range(2))
        self.register_buffer("constants", torch.zeros(2))  # of student and teacher; 0 until the first batch
        # Banks are equal in all processes already; torch need not send 50 MB before every step.
        self._ddp_params_and_buffers_to_ignore = ["student_bank.rows", "teacher_bank.rows"]

    @classmethod
    def assemble(cls, parts: Parts, **options: object) -> Method:
        """Builds the method from student, teacher, and the labels and numbers of the images."""
        return cls(parts.student, parts.teacher, parts.labels, parts.indices, **options)

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """Returns the loss terms. In train mode the memories take in the batch afterwards.

        Args:
            batch: The images (B, 3, H, W), their labels (B,) and their ``indices`` (B,).

            epoch: Fractional epoch. It is not used.

        Returns:
            The weighted terms, scalars by name.

        Raises:
            InputError: If the batch has no indices, or if the memories were not built for its images.
        """
        if batch.indices is None:
            raise InputError(
                "CRD keeps a memory of every image, so it needs to know which images a batch holds. Train it "
                "on Batches, or let your loader yield Batch(images, labels, indices)."
            )
        rows = self.numbers(batch.indices, batch.labels)
        student, teacher = self.features(batch.images)
        terms = self.logit_terms(student.logits, teacher.logits, batch.labels)
        with torch.autocast(batch.images.device.type, enabled=False):
            vectors = (
                F.normalize(self.student_vector(at_least_float32(student.embedding)), dim=1),
                F.normalize(self.teacher_vector(at_least_float32(teacher.embedding)), dim=1),
            )
            contrast = self.contrast(*vectors, rows, self.draw_negatives(rows))
        if self.training:
            self.student_bank.update(rows, vectors[0], self.bank_momentum)
            self.teacher_bank.update(rows, vectors[1], self.bank_momentum)
        return terms | {"student/contrast": self.contrast_weight * contrast}

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        """Refuses, because images and labels are not enough for CRD.

        Args:
            images: Images (B, 3, H, W).

            labels: Their classes (B,).

            epoch: Not used.

        Raises:
            InputError: Always. The message says what to call instead.
        """
        return self.forward(Batch(images, labels), epoch)

    def contrast(self, student: Tensor, teacher: Tensor, rows: Tensor, negatives: Tensor) -> Tensor:
        """The contrastive loss of the student against the teacher's memory plus that of the teacher against
        the student's.

        The first batch fixes the two constants that turn exponentials into probabilities.

        Args:
            student: The student's unit vectors (B, D).

            teacher: The teacher's unit vectors (B, D).

            rows: The rows of the images in the memories (B,).

            negatives: The rows of the other images (B, K).

        Returns:
            A scalar.
        """
        compared = torch.cat((rows[:, None], negatives), 1)  # (B, 1 + K), the image itself first
        scores = torch.stack(
            [
                bank_scores(student, self.teacher_bank.rows, compared),
                bank_scores(teacher, self.student_bank.rows, compared),
            ]
        )
        found = (scores / self.contrast_temperature).exp()  # (2, B, 1 + K)
        count = len(self.student_bank.rows)
        with torch.no_grad():
            first = gathered(found.detach().mean((1, 2))[None]).mean(0) * count
            self.constants.copy_(torch.where(self.constants > 0, self.constants, first))
        return sum(contrastive_loss(found / self.constants[:, None, None].clone(), count))

    def draw_negatives(self, rows: Tensor) -> Tensor:
        """Draws images of other classes. No image occurs twice in a row of the result.

        Args:
            rows: The rows of the images themselves (B,).

        Returns:
            Rows (B, K), int64.
        """
        labels, count, device = self.numbers.labels, len(self.numbers.labels), rows.device
        length = min(self.negatives + self.longest_class, count)  # enough to leave one class out
        start = torch.randint(count, (len(rows), 1), device=device)
        places = (start + torch.arange(length, device=device)) % count
        window = torch.randperm(count, device=device)[places]  # (B, length)
        other = labels[window] != labels[rows][:, None]
        place = other.cumsum(1) - 1
        place = torch.where(other & (place < self.negatives), place, self.negatives)  # the rest goes behind
        drawn = window.new_empty(len(rows), self.negatives + 1).scatter_(1, place, window)
        return drawn[:, :-1]


def bank_scores(vectors: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """Inner products of every vector with its own choice of rows of a memory.

    One product with the whole memory, which takes B N D operations, and a gather of B R numbers replace a
    gather of B R D numbers. The memory may change before the backward pass.

    Args:
        vectors: (B, D).

        bank: (N, D).

        rows: (B, R), int64.

    Returns:
        Scores (B, R).
    """
    return (vectors @ bank.clone().T).gather(1, rows)


def contrastive_loss(likelihoods: Tensor, count: int) -> Tensor:
    """Noise-contrastive estimation of which image is the same, as a mean over a batch.

    Args:
        likelihoods: exp(score / T) / Z of the image itself, then of K others, (..., B, 1 + K).

        count: N, the number of images in the memory. Noise draws each of them with probability 1 / N.

    Returns:
        Losses (...), a scalar for likelihoods (B, 1 + K).

    Source:
        Tian et al., 2020, eqs. 7 to 10 and 17 to 19.
    """
    noise = (likelihoods.shape[-1] - 1) / count  # K / N
    same, others = likelihoods[..., 0], likelihoods[..., 1:]
    whole = noise + 1e-7
    positive = (same / (same + whole)).log()
    negative = (noise / (others + whole)).log().sum(-1)
    return -(positive + negative).mean(-1)


def _negatives(labels: Tensor, wanted: int | None) -> int:
    """Returns how many negatives every image gets."""
    counts = labels.bincount()
    if (counts > 0).sum() < 2:
        raise InputError(
            "CRD compares an image with images of other classes, but all training images are of one class. "
            "Train on two classes or more."
        )
    others = len(labels) - int(counts.max())
    if wanted is None:
        return min(NEGATIVES, others)
    if not 1 <= wanted <= others:
        raise InputError(
            f"negatives must be between 1 and {others}, the images of other classes that every image has "
            f"among {len(labels)}; found {wanted}. Choose fewer, or leave it out to take what there is."
        )
    return wanted
