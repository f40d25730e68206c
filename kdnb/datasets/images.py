"""Images of a part of a data set: one tensor in memory, or a store that reads them when they are wanted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 26  # bytes that are read at a time where all images are looked at


class ImageStore(ABC):
    """Images that do not lie in memory. It reads like their tensor, uint8 (N, H, W, 3).

    Attributes:
        loading: How a record calls this way to hold images.
    """

    loading: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """What the shape of the tensor would be: (N, H, W, 3)."""

    @abstractmethod
    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """The images at some places, in memory."""

    @abstractmethod
    def take(self, index: Tensor) -> ImageStore:
        """The images at some places, none of which is read yet.

        Args:
            index: Places in this store, int64.
        """

    @abstractmethod
    def content(self) -> Iterator[bytes | np.ndarray]:
        """What a fingerprint of the images is made of, piece by piece."""

    def on(self, device: torch.device) -> Tensor | ImageStore:
        """The images in the memory of ``device`` where that is possible and wise, else the store itself.

        Args:
            device: Where the network computes.
        """
        return self

    def __len__(self) -> int:
        return self.shape[0]


class MappedImages(ImageStore):
    """Images in a file that is mapped into memory: the system keeps of it what there is room for.

    Args:
        pixels: All images of the file, uint8 (M, H, W, 3).

        rows: Which of them are the images of this store, int64 (N,).
    """

    loading = "cache"

    def __init__(self, pixels: np.ndarray, rows: Tensor) -> None:
        self.pixels, self.rows = np.asarray(pixels), rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.rows), *self.pixels.shape[1:])

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        rows = self.rows[index]
        images = torch.from_numpy(self.pixels[rows.reshape(-1).numpy()])  # a copy, also of one image
        return images.view(*rows.shape, *self.shape[1:])

    def take(self, index: Tensor) -> MappedImages:
        return MappedImages(self.pixels, self.rows[index])

    def content(self) -> Iterator[np.ndarray]:
        for chunk in chunks(self):
            yield chunk.numpy()

    def on(self, device: torch.device) -> Tensor | MappedImages:
        if device.type != "cuda" or not fits(self.shape, device):
            return self
        copy, start = torch.empty(self.shape, dtype=torch.uint8, device=device), 0
        for chunk in chunks(self):
            copy[start : start + len(chunk)] = chunk.to(device)
            start += len(chunk)
        return copy


Images = Tensor | ImageStore


def taken(images: Images, index: Tensor) -> Images:
    """The images at some places, held as they are held now.

    Args:
        images: All of them.

        index: Places, int64.
    """
    return images[index] if isinstance(images, Tensor) else images.take(index)


def placed(images: Images, device: torch.device) -> Images:
    """The images on ``device``, or where they are if half of the free memory of a GPU does not hold them.

    Args:
        images: What a network shall see.

        device: Where the network computes.
    """
    if isinstance(images, ImageStore):
        return images.on(device)
    if device.type == "cuda" and not images.is_cuda and not fits(images.shape, device):
        return images
    return images.to(device)


def fits(shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether half of the free memory of a GPU holds bytes of this shape."""
    return 2 * prod(shape) <= torch.cuda.mem_get_info(device)[0]


def chunks(images: Images) -> Iterator[Tensor]:
    """All images in order, some at a time, so that little of them is in memory at once.

    Args:
        images: Of any number, also none.

    Yields:
        Some of them, uint8 (n, H, W, 3).
    """
    step = max(1, CHUNK // prod(images.shape[1:]))
    for start in range(0, len(images), step):
        yield images[start : start + step]


def content(images: Images) -> Iterator[bytes | np.ndarray]:
    """What a fingerprint of the images is made of. It is the same for a tensor and its cache.

    Args:
        images: In memory or not.
    """
    if isinstance(images, ImageStore):
        yield from images.content()
    else:
        yield images.contiguous().numpy()
