"""Data sets by name or from a folder of your own pictures, which memory need not hold."""

from pathlib import Path

from kdnb.datasets.batches import Augmentation, Batch, Batches
from kdnb.datasets.cifar import cifar
from kdnb.datasets.dataset import Dataset, Part, stratified_split
from kdnb.datasets.folder import image_folder
from kdnb.datasets.images import ImageStore
from kdnb.datasets.memory import bytes_from_words
from kdnb.datasets.shapes import SIZES, shapes
from kdnb.datasets.shapes_v1 import shapes_v1
from kdnb.datasets.streaming import StreamedBatches
from kdnb.errors import InputError, require_choice
from kdnb.paths import PROJECT

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batch",
    "Batches",
    "Dataset",
    "ImageStore",
    "Part",
    "StreamedBatches",
    "bytes_from_words",
    "cifar",
    "image_folder",
    "load",
    "shapes",
    "shapes_v1",
    "stratified_split",
]

DATASETS = {
    "shapes": "12 outlines in 6 families that look alike, drawn by code with object masks, 32 or 64 pixels",
    "shapes-v1": "the shapes of the course's first edition, always near the middle, 32 x 32",
    "cifar10": "60,000 photographs in 10 classes, 32 x 32, downloaded by torchvision",
    "cifar100": "60,000 photographs in 100 classes, 32 x 32, downloaded by torchvision",
    "PATH": "your pictures: a folder train/<class>/*, test/<class>/* (or just <class>/*), or a "
    ".tar.gz or .zip of one",
}
NAMED = {"shapes": SIZES, "shapes-v1": (32,), "cifar10": (32,), "cifar100": (32,)}  # and their sizes


def load(
    data: str | Path,
    *,
    size: int = 32,
    seed: int = 0,
    validation: float = 0.1,
    root: str | Path | None = None,
    memory: int | None = None,
) -> Dataset:
    """Loads a data set.

    Args:
        data: The name of a data set, or the path of a folder of pictures or of an archive of such a folder.

        size: Height and width in pixels. The pictures of a folder are brought to it. From 128 pixels on they
            are streamed: decoded anew whenever they are shown, for training as random resized crops.
            ``shapes`` are drawn with 32 or 64 pixels. ``shapes-v1`` and CIFAR have 32.

        seed: Seed of the split into parts, and of the pictures of ``shapes``.

        validation: Share of the training pictures that are held out for validation. Every class gives the
            same share.

        root: The folder into which CIFAR is downloaded and archives are unpacked, and in which decoded
            pictures are kept. None means the course's ``data`` folder.

        memory: Bytes that the decoded pictures of a folder may fill. What exceeds them is kept in a file
            that is mapped into memory; the batches have the same bits. None is half of what is free.

    Returns:
        The data set.

    Raises:
        InputError: If the name is unknown, if there is nothing at the path, if ``validation`` is not
            between 0 and 1, if a named data set does not come in that size, or if the pictures cannot be
            used.
    """
    root = Path(root).expanduser() if root is not None else PROJECT / "data"
    if not 0 < validation < 1:
        raise InputError(f"validation must be a share between 0 and 1, found {validation}.")
    if data in NAMED and size not in NAMED[data]:
        known = " or ".join(map(str, NAMED[data]))
        raise InputError(f"The pictures of {data} are {known} pixels high and wide; size was {size}.")
    held_out = round(5000 * validation)
    if data == "shapes":
        return shapes(seed=seed, size=size, train=5000 - held_out, validation=held_out)
    if data == "shapes-v1":
        return shapes_v1(seed=seed, train=5000 - held_out, validation=held_out)
    if data in ("cifar10", "cifar100"):
        return cifar(str(data), root=root, seed=seed, validation=validation)
    path = Path(data).expanduser()
    if path.exists():
        options = {"size": size, "seed": seed, "validation": validation, "memory": memory}
        return image_folder(path, **options, cache=root / "cache")
    if path.parent == Path() and not path.suffix:
        require_choice("data set (and there is no folder of that name)", str(data), DATASETS)
    raise InputError(
        f"There is nothing at {path}. Give a folder or archive of pictures, or one of: {', '.join(NAMED)}."
    )
