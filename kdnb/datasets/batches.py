"""Batches cut from one tensor in memory: no worker processes, augmentation on the device."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kdnb.errors import InputError, require_choice
from kdnb.seeds import derived_seed


@dataclass(frozen=True)
class Augmentation:
    """Random horizontal flip, and a random crop after padding by ``pad`` pixels a side.

    padding: ``"zero"`` pads with black, ``"reflect"`` mirrors about the border pixel.
    """

    flip: bool = True
    pad: int = 4
    padding: Literal["zero", "reflect"] = "zero"

    def __post_init__(self) -> None:
        require_choice("padding", self.padding, ("zero", "reflect"))


@dataclass(frozen=True)
class Batches:
    """Normalised batches (images (B, 3, H, W) float32, labels (B,)) of one part of a data set.

    images: uint8 (N, H, W, 3). labels: int64 (N,). mean, std: per channel, of pixels in [0, 1].
    With ``shuffle`` or ``augmentation``, epoch e is a function of ``seed`` and e alone: the same on
    every machine and after any interruption. Iterating without naming an epoch gives epoch 0.
    """

    images: Tensor
    labels: Tensor
    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shuffle: bool = False
    augmentation: Augmentation | None = None
    drop_last: bool = False
    seed: int = 0

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

    def __len__(self) -> int:
        full, rest = divmod(len(self.labels), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.epoch(0)

    def to(self, device: torch.device | str) -> "Batches":
        """The same batches from a copy of the data on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch ``number``, counted from 0."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "batches", number))
        count, device = len(self.labels), self.images.device
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        scale = 1 / (255 * torch.tensor(self.std, device=device))
        shift = -torch.tensor(self.mean, device=device) * 255 * scale
        for index in order.split(self.batch_size)[: len(self)]:
            index = index.to(device)
            pixels = self._crop(index, generator) if self.augmentation else self.images[index]
            images = pixels.float().mul_(scale).add_(shift)
            yield images.permute(0, 3, 1, 2), self.labels[index]

    def _crop(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Flip and crop in one gather: every pixel of the batch is read once, where it lies."""
        augmentation, (height, width) = self.augmentation, self.images.shape[1:3]
        pad, device = augmentation.pad, index.device
        draw = torch.randint(0, 2 * pad + 1, (2, len(index), 1), generator=generator) - pad
        flip = torch.rand((len(index), 1), generator=generator) < 0.5
        rows = torch.arange(height) + draw[0]  # (B, H), may leave the image
        columns = torch.arange(width) + draw[1]  # (B, W)
        if augmentation.flip:
            columns = torch.where(flip, columns.flip(1), columns)
        inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
        rows, columns = _reflected(rows, height).to(device), _reflected(columns, width).to(device)
        crop = self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        if augmentation.padding == "zero":
            crop = crop * inside.to(device)[..., None]
        return crop


def _inside(position: Tensor, size: int) -> Tensor:
    return (position >= 0) & (position < size)


def _reflected(position: Tensor, size: int) -> Tensor:
    position = position.abs()  # -1 -> 1
    return torch.where(position < size, position, 2 * (size - 1) - position)
