"""Batches cut from one tensor in memory, or from a file that is mapped into it: no worker processes,
augmentation on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kdnb.datasets.images import Images, placed
from kdnb.errors import InputError, require_choice
from kdnb.seeds import derived_seed


@dataclass(eq=False)
class Batch:
    """Some images with their labels, and what else a method may ask for.

    A batch reads as the pair of its images and labels, so a loop that is written for pairs works with it:

        for images, labels in data.batches("test"):

    Args:
        images: Normalised images (B, 3, H, W).

        labels: Numbers of the classes (B,), int64.

        indices: Which images of the training part these are (B,), int64. None where the loader does not
            tell.

        views: Further views of the same images, each (B, 3, H, W) with an augmentation of its own.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor | None = None
    views: tuple[Tensor, ...] = ()

    def __iter__(self) -> Iterator[Tensor]:
        yield self.images
        yield self.labels

    def __getitem__(self, place: int) -> Tensor:
        return (self.images, self.labels)[place]

    @classmethod
    def of(cls, loaded: Batch | tuple[Tensor, Tensor]) -> Batch:
        """What a loader yields, as a Batch: a Batch as it is, or a pair of images and labels."""
        return loaded if isinstance(loaded, Batch) else cls(*loaded)

    def take(self, rows: Tensor) -> Batch:
        """The images at some places of this batch, with everything that belongs to them.

        Args:
            rows: Places in the batch, int64.
        """
        indices = None if self.indices is None else self.indices[rows]
        views = tuple(view[rows] for view in self.views)
        return Batch(self.images[rows], self.labels[rows], indices, views)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``, the images laid out channels last."""
        images, *views = (
            view.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            for view in (self.images, *self.views)
        )
        indices = None if self.indices is None else self.indices.to(device, non_blocking=True)
        return Batch(images, self.labels.to(device, non_blocking=True), indices, tuple(views))


@dataclass(frozen=True)
class Augmentation:
    """A random horizontal flip, and a random crop after padding.

    Args:
        flip: Whether an image is mirrored with probability one half.

        pad: Pixels that are added on every side before the crop.

        padding: ``"zero"`` pads with black; ``"reflect"`` mirrors the image about its border pixels.

    Raises:
        InputError: For another word for ``padding``.
    """

    flip: bool = True
    pad: int = 4
    padding: Literal["zero", "reflect"] = "zero"

    def __post_init__(self) -> None:
        require_choice("padding", self.padding, ("zero", "reflect"))


@dataclass(frozen=True)
class Batches:
    """Normalised batches of one part of a data set, made anew in every epoch.

    With ``shuffle`` or ``augmentation``, epoch e is a function of ``seed`` and e alone: it is the same on
    every machine and after any interruption. Iterating without naming an epoch gives epoch 0.

    Args:
        images: All pixels, uint8 (N, H, W, 3). Where they do not lie on the device of the labels, every batch
            is gathered where they are and then brought there.

        labels: Their classes, int64 (N,).

        batch_size: Images in a batch.

        mean: Of every channel, for pixels in [0, 1].

        std: Standard deviation of every channel, for pixels in [0, 1].

        shuffle: Whether every epoch has an order of its own.

        augmentation: What is drawn at random for every image; None shows the images as they are.

        drop_last: Whether an incomplete last batch is left out.

        seed: Of the order and of the augmentation.

        indices: What ``Batch.indices`` says of the images, int64 (N,). None numbers them as they lie.

        views: How many further views of every image a batch carries. View 0, ``Batch.images``, is the
            same whatever this number is.

    Raises:
        InputError: For a batch size below 1, padding that exceeds the images, no full batch where an
            incomplete one is dropped, and further views without augmentation, which would all be equal.
    """

    images: Images
    labels: Tensor
    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shuffle: bool = False
    augmentation: Augmentation | None = None
    drop_last: bool = False
    seed: int = 0
    indices: Tensor | None = None
    views: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, found {self.batch_size}.")
        pad, size = (self.augmentation or Augmentation(pad=0)).pad, min(self.images.shape[1:3])
        if not 0 <= pad < size:
            raise InputError(f"pad must be between 0 and {size - 1} for this size, found {pad}.")
        if len(self) == 0:
            raise InputError(
                f"{len(self.labels)} images do not fill one batch of {self.batch_size}; "
                "choose a smaller batch_size."
            )
        if self.views and self.augmentation is None:
            raise InputError(
                f"{self.views} further views of every image are asked for, but these batches are not "
                "augmented, so all views would be the same. Give them an Augmentation."
            )

    def __len__(self) -> int:
        full, rest = divmod(len(self.labels), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def to(self, device: torch.device | str) -> Batches:
        """The same batches on ``device``, from a copy of the data there where its memory holds one."""
        images, labels = placed(self.images, torch.device(device)), self.labels.to(device)
        indices = None if self.indices is None else self.indices.to(device)
        return replace(self, images=images, labels=labels, indices=indices)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch.

        All random numbers of the epoch are drawn at its start, on the CPU, and brought to the device in
        one piece each, so that a batch waits for nothing.

        Args:
            number: Of the epoch, counted from 0.
        """
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "batches", number))
        count, device = len(self.labels), self.labels.device
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        order = order[: len(self) * self.batch_size]
        views = [self._draws(len(order), generator)]
        for view in range(1, self.views + 1):
            seed = derived_seed(self.seed, "view", view, number)
            views.append(self._draws(len(order), torch.Generator().manual_seed(seed)))
        scale, shift = self.scale_and_shift()
        chosen = zip(order.split(self.batch_size), order.to(device).split(self.batch_size), strict=True)
        for place, (places, rows) in enumerate(chosen):
            source, read = self._source(places, rows)
            shown = []
            for draws in views:
                pixels = (
                    source[read] if draws is None else self._crop(source, read, *(d[place] for d in draws))
                )
                shown.append(self.normalised(pixels, scale, shift))
            indices = rows if self.indices is None else self.indices[rows]
            yield Batch(shown[0], self.labels[rows], indices, tuple(shown[1:]))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """By which a pixel is multiplied, and what is then added to it, one number a channel (3,)."""
        device = self.labels.device
        scale = 1 / (255 * torch.tensor(self.std, device=device))
        return scale, -torch.tensor(self.mean, device=device) * 255 * scale

    @staticmethod
    def normalised(pixels: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Images as a network sees them (B, 3, H, W), float32.

        Args:
            pixels: uint8 (B, H, W, 3).

            scale: Of every channel (3,).

            shift: Of every channel (3,).
        """
        return pixels.float().mul_(scale).add_(shift).permute(0, 3, 1, 2)

    def _source(self, places: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images on the device, and where those of a batch lie among them.

        Args:
            places: Places of the images in ``self.images`` (B,), on the CPU.

            rows: The same on the device.
        """
        device = rows.device
        if isinstance(self.images, Tensor) and self.images.device == device:
            return self.images, rows
        gathered = self.images[places]
        if device.type == "cuda":
            gathered = gathered.pin_memory().to(device, non_blocking=True)
        return gathered.to(device), torch.arange(len(rows), device=device)

    def _draws(self, count: int, generator: torch.Generator) -> tuple[tuple[Tensor, ...], ...] | None:
        """The random shifts (2, B, 1) and flips (B, 1) of every batch of ``count`` images, on the device."""
        if self.augmentation is None:
            return None
        pad, shifts, flips = self.augmentation.pad, [], []
        sizes = [len(part) for part in torch.empty(count).split(self.batch_size)]
        for size in sizes:
            shifts.append(torch.randint(0, 2 * pad + 1, (2, size, 1), generator=generator) - pad)
            flips.append(torch.rand((size, 1), generator=generator) < 0.5)
        device = self.labels.device
        return (
            torch.cat(shifts, 1).to(device).split(sizes, 1),
            torch.cat(flips).to(device).split(sizes),
        )

    def _crop(self, images: Tensor, index: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
        """Flips and crops in one gather: every pixel of the batch is read once, where it lies."""
        augmentation, (height, width) = self.augmentation, images.shape[1:3]
        rows = torch.arange(height, device=index.device) + shift[0]  # (B, H), may leave the image
        columns = torch.arange(width, device=index.device) + shift[1]  # (B, W)
        if augmentation.flip:
            columns = torch.where(flip, columns.flip(1), columns)
        inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
        rows, columns = _reflected(rows, height), _reflected(columns, width)
        crop = images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        if augmentation.padding == "zero":
            crop = crop * inside[..., None]
        return crop


def _inside(position: Tensor, size: int) -> Tensor:
    return (position >= 0) & (position < size)


def _reflected(position: Tensor, size: int) -> Tensor:
    position = position.abs()  # -1 -> 1
    return torch.where(position < size, position, 2 * (size - 1) - position)
