"""``kdnb bench data``: pictures a second from a folder, beside torchvision's ImageFolder and DataLoader."""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from kdnb.commands.bench.timing import exhaust, seconds
from kdnb.datasets import Augmentation, Batches, image_folder
from kdnb.datasets.decoding import cores, decoded
from kdnb.datasets.streaming import IMAGENET_MEAN, IMAGENET_STD

SIDE, CLASSES, DISTINCT = 256, 10, 500  # pixels a side; folders; pictures that differ, the others are copies
CACHED, STREAMED = 64, 224  # pixels that the cache and streaming bring them to
BATCH = 64


def make_folder(folder: Path, pictures: int, *, first: int = 0, side: int = SIDE) -> None:
    """Writes JPEG files of soft blobs and some noise, about as large as photographs of that size.

    Args:
        folder: Where; it gets ten folders, one a class.

        pictures: How many there are in the end.

        first: How many are there already.

        side: Height and width in pixels.
    """
    contents = [_jpeg(number, side) for number in range(min(DISTINCT, pictures))]
    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True, exist_ok=True)
    for number in range(first, pictures):
        file = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        file.write_bytes(contents[number % len(contents)])


def _jpeg(number: int, side: int) -> bytes:
    random = np.random.default_rng(number)
    blobs = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    pixels = np.asarray(blobs.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
    noisy = (pixels + random.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def data_speed(
    *, pictures: int = 2000, rounds: int = 5, side: int = SIDE
) -> Iterator[dict[str, float | str]]:
    """One row for every way to read a folder, in rounds in which ours and torchvision's alternate.

    torchvision's transforms give batches of the same kind: random resized crops of 224 pixels, or pictures
    of 64 pixels padded and cropped at random, mirrored and normalised. It has as many worker processes as
    there are cores, as streaming has.

    Args:
        pictures: In the folder.

        rounds: Rounds; a row holds medians over them.

        side: Height and width of the files in pixels.

    Yields:
        ``per_second`` and ``torchvision``'s pictures a second, and their ratio ``times`` with the smallest
        and the largest of the rounds.
    """
    with tempfile.TemporaryDirectory(prefix="kdnb-bench-") as temporary:
        folder, cache = Path(temporary) / "pictures", Path(temporary) / "cache"
        make_folder(folder, pictures, side=side)
        crops = [transforms.RandomResizedCrop(STREAMED), transforms.RandomHorizontalFlip()]
        squares = [transforms.Resize(CACHED), transforms.CenterCrop(CACHED)]
        padded = [*squares, transforms.RandomCrop(CACHED, padding=4), transforms.RandomHorizontalFlip()]
        stream = _epochs(image_folder(folder, size=STREAMED, cache=cache).train_batches(BATCH))
        cached = _epochs(image_folder(folder, size=CACHED, cache=cache, memory=0).train_batches(BATCH))
        files = sorted(folder.rglob("*.jpg"))
        ways: dict[str, tuple[tuple[Callable[[], object], int], list]] = {
            f"stream, {STREAMED} pixels": (stream, crops),
            f"cache, {CACHED} pixels": (cached, padded),
            f"decoding, {CACHED} pixels": ((lambda: _exhaust(decoded(files, CACHED)), len(files)), padded),
        }
        for name, ((ours, number), steps) in ways.items():
            yield _row(name, ours, number, _usual(folder, steps), pictures, rounds)


def _row(
    name: str, ours: Callable[[], object], own: int, theirs: Callable[[], object], other: int, rounds: int
) -> dict[str, float | str]:
    for work in (ours, theirs):
        work()
    rates = [(own / seconds(ours), other / seconds(theirs)) for _ in range(rounds)]
    ratios = [mine / usual for mine, usual in rates]
    return {
        "loader": name,
        "per_second": median(mine for mine, _ in rates),
        "torchvision": median(usual for _, usual in rates),
        "times": median(ratios),
        "times_low": min(ratios),
        "times_high": max(ratios),
    }


def _epochs(batches: Batches) -> tuple[Callable[[], None], int]:
    """Makes the batches of another epoch with every call, and how many pictures that are."""
    numbers = count()
    batches = replace(batches, augmentation=Augmentation())
    return lambda: exhaust(batches, next(numbers)), len(batches.labels)


def _usual(folder: Path, steps: list) -> Callable[[], None]:
    normalise = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    data = ImageFolder(str(folder), transforms.Compose([*steps, *normalise]))
    return partial(_exhaust, DataLoader(data, BATCH, shuffle=True, num_workers=cores()))


def _exhaust(things: Iterable[object]) -> None:
    for _ in things:
        pass
