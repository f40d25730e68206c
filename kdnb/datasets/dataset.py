"""A data set: three parts, their statistics, and the splits that make them."""

from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from torch import Tensor

from kdnb.datasets.batches import Augmentation, Batches
from kdnb.datasets.images import Images, chunks, content, taken
from kdnb.datasets.streaming import LARGEST_BATCH, ImageFiles, StreamedBatches
from kdnb.errors import InputError, require_choice
from kdnb.seeds import derived_seed


@dataclass(frozen=True)
class Part:
    """Images of a data set that serve one purpose.

    Args:
        images: Pixels, uint8 (N, H, W, 3): a tensor, or an ``ImageStore`` that reads like one where memory
            does not hold them.

        labels: Classes, int64 (N,).

        masks: Where the object is, bool (N, H, W); None where that is not known.

        indices: Which images these are of the whole part, int64 (N,), where they are some of them; None
            where they are all, numbered as they lie.
    """

    images: Images
    labels: Tensor
    masks: Tensor | None = None
    indices: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "Part":
        """The images at some places as a part of their own, numbered anew.

        Args:
            index: Places in this part, int64.
        """
        masks = None if self.masks is None else self.masks[index]
        return Part(taken(self.images, index), self.labels[index], masks)

    @property
    def numbers(self) -> Tensor:
        """``indices`` (N,), also where the images are all of the part."""
        return torch.arange(len(self)) if self.indices is None else self.indices


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test parts. The test part is for ``evaluate`` alone.

    Args:
        name: Of the data set.

        classes: Names of the classes, in the order of their numbers.

        train: The training part.

        validation: Held out of training, for choices.

        test: For the final evaluation.

        mean: Of every channel of the training part, for pixels in [0, 1].

        std: Standard deviation of every channel of the training part, for pixels in [0, 1].

        families: For every class the number of its family of look-alikes; None where that is not known.
    """

    name: str
    classes: tuple[str, ...]
    train: Part
    validation: Part
    test: Part
    mean: tuple[float, ...]
    std: tuple[float, ...]
    families: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        name: str,
        classes: tuple[str, ...],
        *,
        train: Part,
        validation: Part,
        test: Part,
        families: tuple[int, ...] | None = None,
        statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    ) -> "Dataset":
        """A data set whose mean and standard deviation are measured on its training part.

        Args:
            name: Of the data set.

            classes: Names of the classes, in the order of their numbers.

            train: The training part.

            validation: Held out of training.

            test: For the final evaluation.

            families: For every class the number of its family of look-alikes, where that is known.

            statistics: Mean and standard deviation of every channel, where they are not to be measured.
        """
        mean, std = statistics or _mean_and_std(train.images)
        return cls(name, classes, train, validation, test, mean, std, families)

    @property
    def size(self) -> int:
        """Height and width of every image, in pixels."""
        return self.train.images.shape[1]

    @property
    def loading(self) -> str:
        """How the images are held: in ``"memory"``, in a ``"cache"`` on disk, or as a ``"stream"``."""
        images = self.train.images
        return "memory" if isinstance(images, Tensor) else images.loading

    def train_batches(
        self,
        batch_size: int = 64,
        *,
        seed: int = 0,
        augmentation: Augmentation | None = Augmentation(),  # noqa: B008 (frozen)
        drop_last: bool = False,
    ) -> Batches:
        """Shuffled, augmented batches of the training part.

        Args:
            batch_size: Images in a batch.

            seed: Of the order and of the augmentation.

            augmentation: What is drawn for every image; None shows the images as they are. Pictures that are
                streamed are shown as random resized crops instead of padded ones.

            drop_last: Whether an incomplete last batch is left out.
        """
        images, labels = self.train.images, self.train.labels
        options = {"shuffle": True, "augmentation": augmentation, "drop_last": drop_last}
        options["indices"] = self.train.indices
        kind = StreamedBatches if isinstance(images, ImageFiles) else Batches
        return kind(images, labels, batch_size, self.mean, self.std, seed=seed, **options)

    def batches(self, part: str, batch_size: int = 500) -> Batches:
        """Batches of one part in stored order, not augmented.

        Args:
            part: ``"train"``, ``"validation"`` or ``"test"``.

            batch_size: Images in a batch. Pictures that are streamed come 64 at a time at most.

        Raises:
            InputError: For another part.
        """
        chosen: Part = getattr(self, require_choice("part", part, ("train", "validation", "test")))
        about = {"mean": self.mean, "std": self.std, "indices": chosen.indices}
        if isinstance(chosen.images, ImageFiles):
            return StreamedBatches(chosen.images, chosen.labels, min(batch_size, LARGEST_BATCH), **about)
        return Batches(chosen.images, chosen.labels, batch_size, **about)

    def few(self, count: int, *, seed: int = 0) -> "Dataset":
        """The same data set with only some of the training images, the classes in proportion.

        Mean and standard deviation stay, so that a teacher of the whole set sees what it was trained on. So
        do the numbers of the images, ``Batch.indices``.

        Args:
            count: How many training images are kept. A count above what there is keeps all of them.

            seed: Of the choice.

        Raises:
            InputError: For fewer images than classes.
        """
        if count >= len(self.train):
            return self
        if count < len(self.classes):
            raise InputError(f"{count} images cannot show {len(self.classes)} classes.")
        kept, _ = _split(self.train.labels, count, spare=0, seed=seed)
        chosen = replace(self.train.take(kept), indices=self.train.numbers[kept])
        return replace(self, train=chosen)

    def mislabelled(self, share: float, *, seed: int = 0) -> "Dataset":
        """The same data set with wrong labels in the training part.

        Args:
            share: Share of the training images that get a wrong label. Each gets one of the other classes,
                all equally likely.

            seed: Of the choice.

        Raises:
            InputError: For a share that is not between 0 and 1.
        """
        if not 0 <= share <= 1:
            raise InputError(f"The share of wrong labels must be between 0 and 1, found {share!r}.")
        generator = torch.Generator().manual_seed(derived_seed(seed, "mislabelled"))
        labels, count = self.train.labels.clone(), round(share * len(self.train))
        wrong = torch.randperm(len(labels), generator=generator)[:count]
        steps = torch.randint(1, len(self.classes), (count,), generator=generator)
        labels[wrong] = (labels[wrong] + steps) % len(self.classes)
        return replace(self, train=replace(self.train, labels=labels))

    def fingerprint(self) -> str:
        """A short hash of every pixel and label, to tell in a record what was trained on.

        Of pictures that are streamed, the paths in their folder and the sizes of the files stand for pixels.
        """
        digest = sha256(" ".join(self.classes).encode())
        for part in (self.train, self.validation, self.test):
            for piece in content(part.images):
                digest.update(piece)
            digest.update(part.labels.contiguous().numpy())
        return digest.hexdigest()[:16]


def stratified_split(labels: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Splits images in two at random.

    Every class gives its share, to within one image, and has at least one image on either side.

    Args:
        labels: Of all images (N,), int64.

        fraction: Share of the first part.

        seed: Of the choice.

    Returns:
        The places of the images of the first part and of the rest, both in random order.

    Raises:
        InputError: For a class of one image, which cannot be split.
    """
    numbers, counts = labels.unique(return_counts=True)
    if len(alone := numbers[counts < 2]):
        raise InputError(f"Class number {int(alone[0])} has one image; splitting needs at least two a class.")
    return _split(labels, round(fraction * len(labels)), spare=1, seed=seed)


def _split(labels: Tensor, total: int, *, spare: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(derived_seed(seed, "split"))
    numbers, counts = labels.unique(return_counts=True)
    chosen, rest = [], []
    for label, share in zip(numbers, _shares(counts.tolist(), total, spare=spare), strict=True):
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        chosen.append(members[:share])
        rest.append(members[share:])
    return _mixed(chosen, generator), _mixed(rest, generator)


def _shares(counts: list[int], total: int, *, spare: int) -> list[int]:
    """``total`` images shared out among classes in proportion to their ``counts``: at least one
    each, and all but ``spare`` at most. Rounding each class alone would miss the total."""
    exact = [total * count / sum(counts) for count in counts]
    shares = [min(max(1, int(share)), count - spare) for share, count in zip(exact, counts, strict=True)]
    while sum(shares) != total:
        step = 1 if sum(shares) < total else -1
        able = [i for i, count in enumerate(counts) if 1 <= shares[i] + step <= count - spare]
        if not able:  # as near as the limits allow
            break
        shares[max(able, key=lambda i: step * (exact[i] - shares[i]))] += step
    return shares


def _mixed(groups: list[Tensor], generator: torch.Generator) -> Tensor:
    index = torch.cat(groups)
    return index[torch.randperm(len(index), generator=generator)]


def _mean_and_std(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of every channel. Exact, from histograms of the 256 values: no large float copy."""
    counts = torch.zeros(3, 256, dtype=torch.float64)
    for chunk in chunks(images):
        for channel in range(3):
            counts[channel] += torch.bincount(chunk[..., channel].flatten(), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    found = []
    for histogram in counts:
        mean = (histogram * values).sum() / histogram.sum()
        variance = (histogram * (values - mean).square()).sum() / histogram.sum()
        found.append((mean.item(), max(variance.sqrt().item(), 1 / 255)))
    mean, std = zip(*found, strict=True)
    return mean, std
