"""Your own pictures: a folder with one folder for each class. Pictures may have any size and colour mode."""

import os
from pathlib import Path

import torch
from torch import Tensor

from kdnb.datasets.archive import unpacked
from kdnb.datasets.cache import cached
from kdnb.datasets.dataset import Dataset, Part, stratified_split
from kdnb.datasets.decoding import decoded
from kdnb.datasets.images import Images, taken
from kdnb.datasets.memory import default_budget
from kdnb.datasets.streaming import IMAGENET_MEAN, IMAGENET_STD, STREAMED, ImageFiles
from kdnb.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
TEST_SHARE = 0.2  # taken from a folder that has no test part
PARTS = ("train", "val", "test")


def image_folder(
    path: Path,
    *,
    size: int = 32,
    seed: int = 0,
    validation: float = 0.1,
    cache: Path,
    memory: int | None = None,
) -> Dataset:
    """Loads the data set in a folder of pictures, or in an archive of such a folder.

    A folder may have its parts in ``train/<class>/*`` with ``test/<class>/*``, ``val/<class>/*`` or both. If
    there is no ``test``, ``val`` serves as the test part. A folder may also have only ``<class>/*``. Then a
    fifth of every class becomes the test part.

    Every picture is turned upright, converted to RGB, resized so that its shorter side has ``size`` pixels,
    and cropped around its centre. If memory does not hold the result, it is kept in a file that is mapped
    into memory. The batches have the same bits.

    From a size of 128 pixels on, pictures are decoded anew whenever they are shown, for training as random
    resized crops, for evaluation without the border. Mean and standard deviation are those that are usual
    for ImageNet.

    Args:
        path: The folder, or a ``.tar.gz``, ``.tgz`` or ``.zip`` file.

        size: Height and width of the pictures in pixels, at least 8.

        seed: Seed of the splits.

        validation: Share of the training pictures that are held out for validation, if the folder does not
            have all three parts. Every class gives the same share.

        cache: The folder into which archives are unpacked, and in which decoded pictures are kept.

        memory: Bytes that the decoded pictures may fill. None is half of what is free.

    Returns:
        The data set, named after the folder or archive.

    Raises:
        InputError: If the folder is empty, if it has fewer than two classes, if its parts have different
            classes, if a class has too few pictures to split, or if pictures cannot be read. Up to ten
            unreadable pictures are named. Pictures that are streamed are read when they are first shown, and
            those that cannot be read are named then. It is also raised if there is no disk for a cache.
    """
    if size < 8:
        raise InputError(f"size must be at least 8 pixels, found {size}.")
    root = _innermost(unpacked(path, cache=cache) if path.is_file() else path)
    scans = _scans(root)
    classes = next(iter(scans.values()))[1]
    files = [file for found, _ in scans.values() for file, _ in found]
    labels = torch.tensor([label for found, _ in scans.values() for _, label in found])
    rows = _rows({name: len(found) for name, (found, _) in scans.items()}, labels, classes, validation, seed)
    if size >= STREAMED:
        store, statistics = ImageFiles.of(root, files, size), (IMAGENET_MEAN, IMAGENET_STD)
        images = {name: taken(store, places) for name, places in rows.items()}
    else:
        budget, statistics = default_budget() if memory is None else memory, None
        images = _images(files, size, rows, budget, path.name.split(".")[0], cache)
    parts = {name: Part(images[name], labels[places]) for name, places in rows.items()}
    return Dataset.of(path.name, classes, **parts, statistics=statistics)


def _scans(root: Path) -> dict[str, tuple[list[tuple[Path, int]], tuple[str, ...]]]:
    """What ``_scan`` finds in every part of the folder; one scan named "all" where it has no parts."""
    folders = {name: root / name for name in PARTS if (root / name).is_dir()}
    if not folders:
        return {"all": _scan(root)}
    if "train" not in folders:
        raise InputError(
            f"{root} has {' and '.join(map(repr, folders))} but no 'train'. Add it, or put the "
            "class folders side by side to have them split."
        )
    if len(folders) == 1:
        raise InputError(
            f"{root} has 'train' but neither 'test' nor 'val'. Add one, or put the class folders "
            "side by side without 'train' to have them split."
        )
    scans = {name: _scan(folder) for name, folder in folders.items()}
    for name, (_, found) in scans.items():
        _same_classes(root, name, scans["train"][1], found)
    return scans


def _rows(
    counts: dict[str, int], labels: Tensor, classes: tuple[str, ...], validation: float, seed: int
) -> dict[str, Tensor]:
    """Which pictures make the train, validation and test part, by their places among all files."""
    found = dict(zip(counts, torch.arange(len(labels)).split(list(counts.values())), strict=True))
    if len(found) == 3:
        return {"train": found["train"], "validation": found["val"], "test": found["test"]}
    if "all" in found:
        train, test = _split_rows(found["all"], labels, TEST_SHARE, "test", classes, seed)
    else:
        train, test = found["train"], found["test"] if "test" in found else found["val"]
    train, held_out = _split_rows(train, labels, validation, "validation", classes, seed)
    return {"train": train, "validation": held_out, "test": test}


def _split_rows(
    rows: Tensor, labels: Tensor, share: float, other: str, classes: tuple[str, ...], seed: int
) -> tuple[Tensor, Tensor]:
    """Splits places into what remains and the ``share`` of every class that goes to the ``other`` part."""
    counts = labels[rows].bincount(minlength=len(classes)).tolist()
    if min(counts) < 2:
        scarce = [name for name, count in zip(classes, counts, strict=True) if count < 2]
        raise InputError(
            f"There are too few pictures of {', '.join(map(repr, scarce))}: none is left for "
            f"training when one goes to the {other} part. Add pictures; four of a class are always enough."
        )
    given, kept = stratified_split(labels[rows], share, seed=seed)
    return rows[kept], rows[given]


def _images(
    files: list[Path], size: int, rows: dict[str, Tensor], budget: int, name: str, cache: Path
) -> dict[str, Images]:
    """The decoded pictures of every part, in memory if the budget allows it, else in a cache."""
    if len(files) * size * size * 3 > budget:
        store = cached(files, size, name=name, folder=cache)
        return {part: taken(store, places) for part, places in rows.items()}
    images = {
        part: torch.empty(len(places), size, size, 3, dtype=torch.uint8) for part, places in rows.items()
    }
    targets = {
        place: target
        for part, places in rows.items()
        for place, target in zip(places.tolist(), images[part].numpy(), strict=True)
    }
    for place, picture in enumerate(decoded(files, size)):
        targets[place][:] = picture
    return images


def _innermost(root: Path) -> Path:
    """Skips folders that hold nothing but one other folder, as archives often have them."""
    entries = [
        entry
        for entry in root.iterdir()
        if not _hidden(entry.name) and (entry.is_dir() or entry.suffix.lower() in SUFFIXES)
    ]
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name not in PARTS:
        inside = [entry for entry in entries[0].iterdir() if entry.is_dir()]
        if inside:
            return _innermost(entries[0])
    return root


def _scan(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Returns every picture with the number of its class, and the classes in the order of their names."""
    found = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not _hidden(entry.name) and (pictures := _pictures(entry)):
            found[entry.name] = pictures
    if len(found) < 2:
        what = f"pictures of one class only ({next(iter(found))!r})" if found else "no pictures"
        raise InputError(
            f"{folder} holds {what}; expected at least two folders, one a class, with pictures "
            f"({', '.join(sorted(SUFFIXES))}) in each."
        )
    classes = tuple(found)
    files = [(file, number) for number, name in enumerate(classes) for file in found[name]]
    return files, classes


def _pictures(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        found += [Path(place, name) for name in names if not _hidden(name)]
    return sorted((file for file in found if file.suffix.lower() in SUFFIXES), key=str)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _same_classes(root: Path, part: str, train: tuple[str, ...], other: tuple[str, ...]) -> None:
    if train != other:
        missing, extra = sorted(set(train) - set(other)), sorted(set(other) - set(train))
        raise InputError(
            f"{root}: 'train' and {part!r} have different classes. Only in 'train': "
            f"{', '.join(missing) or 'none'}. Only in {part!r}: {', '.join(extra) or 'none'}. "
            "Give both the same class folders, each with at least one picture."
        )
