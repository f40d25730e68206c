"""Pictures that are decoded anew whenever they are shown, in worker processes: training as on ImageNet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import exp, log, sqrt
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdnb.datasets.batches import Batch, Batches
from kdnb.datasets.decoding import Box, cores, cut, unreadable
from kdnb.datasets.images import ImageStore
from kdnb.errors import InputError
from kdnb.seeds import derived_seed

STREAMED = 128  # from this size on, a folder is streamed
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop: its share of the picture, and width by height
TRIES = 10  # to find a crop that lies inside the picture
SHOWN = 224 / 256  # how much of the shorter side evaluation shows
LARGEST_BATCH = 64  # for evaluation; a worker makes a whole batch, and several batches wait


class ImageFiles(ImageStore):
    """Pictures in their files. Where no crop is drawn, the centre is shown.

    Args:
        root: The folder of all files.

        names: Paths below it, one a picture, as bytes in one array: worker processes share it as it is.

        rows: Which of them are the images of this store, int64 (N,).

        size: Height and width that the pictures are brought to.
    """

    loading = "stream"

    def __init__(self, root: Path, names: np.ndarray, rows: Tensor, size: int) -> None:
        self.root, self.names, self.rows, self.size = root, names, rows, size

    @classmethod
    def of(cls, root: Path, files: Sequence[Path], size: int) -> ImageFiles:
        """All pictures of a folder.

        Args:
            root: The folder.

            files: Its pictures.

            size: Height and width that they are brought to.
        """
        names = np.array([os.fsencode(file.relative_to(root)) for file in files])
        return cls(root, names, torch.arange(len(files)), size)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.rows), self.size, self.size, 3)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        rows = torch.arange(len(self))[index]
        images = np.stack([self.view(row, centre) for row in rows.reshape(-1).tolist()])
        return torch.from_numpy(images).view(*rows.shape, *self.shape[1:])

    def take(self, index: Tensor) -> ImageFiles:
        return ImageFiles(self.root, self.names, self.rows[index], self.size)

    def content(self) -> Iterator[bytes]:
        """Every file's path in the folder and its size. Reading them all would take as long as an epoch."""
        for row in range(len(self)):
            file = self.file(row)
            size = file.stat().st_size if file.exists() else 0
            yield os.fsencode(f"{file.relative_to(self.root).as_posix()} {size}\n")

    def file(self, row: int) -> Path:
        """The file of a picture.

        Args:
            row: Place of the picture in this store.
        """
        return self.root / os.fsdecode(self.names[self.rows[row]])

    def view(self, row: int, box: Callable[[int, int], Box]) -> np.ndarray:
        """One view of a picture, uint8 (size, size, 3).

        Args:
            row: Place of the picture in this store.

            box: Chooses what is shown from the width and the height of the picture.

        Raises:
            InputError: If the file cannot be read.
        """
        found = cut(self.file(row), self.size, box)
        if isinstance(found, str):
            raise unreadable([found], len(self))
        return found


def centre(width: int, height: int) -> Box:
    """What evaluation shows: a square in the middle, 224/256 of the shorter side.

    That is the usual way to resize the shorter side to 256 pixels and to cut out the middle 224, in one step.

    Args:
        width: Of the picture in pixels.

        height: Of the picture in pixels.
    """
    side = SHOWN * min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def random_box(width: int, height: int, *, random: Random) -> Box:
    """A random crop: 8 to 100 % of the picture, with a ratio of sides between 3/4 and 4/3.

    Where ten tries find none that lies inside, it is the largest crop in the middle whose ratio is allowed.

    Args:
        width: Of the picture in pixels.

        height: Of the picture in pixels.

        random: Draws the crop.

    Source:
        C. Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
    """
    for _ in range(TRIES):
        area = width * height * random.uniform(*SCALE)
        ratio = exp(random.uniform(*map(log, RATIO)))
        wide, high = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, upper = random.randint(0, width - wide), random.randint(0, height - high)
            return left, upper, left + wide, upper + high
    wide, high = min(width, height * RATIO[1]), min(height, width / RATIO[0])
    left, upper = (width - wide) / 2, (height - high) / 2
    return left, upper, left + wide, upper + high


@dataclass(frozen=True)
class StreamedBatches(Batches):
    """Batches whose pictures are decoded in worker processes.

    With ``augmentation``, every picture is shown as a random crop, resized, and mirrored with probability
    one half where ``augmentation.flip`` says so; its padding is not used. The order is a function of the
    seed and the epoch, as in memory. The crop of a picture is a function of the seed, the epoch, the
    picture's number and the number of the view. Neither depends on the number of workers, on the batch
    size, or on where training was interrupted.

    ``images`` are ``ImageFiles``. They stay in their files; ``to`` decides where the batches go.

    Args:
        share: Which share of every batch is decoded: the number of this process, and of how many. Shares
            are of one size. Where a batch does not divide, its first images are shown once more.

        workers: Processes that decode, each a batch at a time; 0 decodes in this process. None is one for
            every core.
    """

    share: tuple[int, int] = (0, 1)
    workers: int | None = None

    def epoch(self, number: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "batches", number))
        count = len(self.labels)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        batches = [self._mine(batch) for batch in order[: len(self) * self.batch_size].split(self.batch_size)]
        device = self.labels.device
        scale, shift = self.scale_and_shift()
        for rows, loaded in zip(batches, self._loaded(number, batches, device), strict=True):
            if isinstance(loaded, str):
                raise InputError(loaded)
            shown = [self.normalised(view.to(device, non_blocking=True), scale, shift) for view in loaded]
            rows = rows.to(device)
            indices = rows if self.indices is None else self.indices[rows]
            yield Batch(shown[0], self.labels[rows], indices, tuple(shown[1:]))

    def for_process(self, rank: int, processes: int) -> StreamedBatches:
        """The same batches, of which each process decodes its own share.

        Args:
            rank: Number of this process.

            processes: How many there are.
        """
        return replace(self, share=(rank, processes))

    def _mine(self, batch: Tensor) -> Tensor:
        rank, processes = self.share
        most = -(-len(batch) // processes)
        return batch[(torch.arange(most) * processes + rank) % len(batch)]

    def _loaded(self, number: int, batches: list[Tensor], device: torch.device) -> DataLoader:
        """Reads every batch as uint8 views (B, H, W, 3), or as the words for pictures that cannot be read."""
        numbers = None if self.indices is None else self.indices.cpu()
        views = self.views + 1 if self.augmentation is not None else 0
        flip = self.augmentation is not None and self.augmentation.flip
        return DataLoader(
            _Views(self.images, numbers, number, self.seed, views, flip),
            batch_size=None,
            sampler=batches,
            num_workers=min(cores(), len(batches)) if self.workers is None else self.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
        )


@dataclass(frozen=True)
class _Views:
    """What a worker process needs to make a batch: an item is a batch, by the places of its pictures."""

    images: ImageFiles
    numbers: Tensor | None
    epoch: int
    seed: int
    drawn: int  # views with a random crop; 0 shows the centre
    flip: bool

    def __getitem__(self, rows: Tensor) -> list[Tensor] | str:
        bad, views = [], [[] for _ in range(max(1, self.drawn))]
        for row in rows.tolist():
            for view, pictures in enumerate(views):
                picture = self._view(row, view) if self.drawn else self._read(row, centre)
                (bad if isinstance(picture, str) else pictures).append(picture)
        if bad:
            return str(unreadable(list(dict.fromkeys(bad)), len(rows)))
        return [torch.from_numpy(np.stack(pictures)) for pictures in views]

    def _view(self, row: int, view: int) -> np.ndarray | str:
        number = row if self.numbers is None else int(self.numbers[row])
        random = Random(derived_seed(self.seed, "crop", self.epoch, number, view))
        mirrored = random.random() < 0.5 and self.flip
        picture = self._read(row, partial(random_box, random=random))
        return picture[:, ::-1] if mirrored and not isinstance(picture, str) else picture

    def _read(self, row: int, box: Callable[[int, int], Box]) -> np.ndarray | str:
        return cut(self.images.file(row), self.images.size, box)
