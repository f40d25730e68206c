"""Your own pictures: a folder with one folder for each class. Pictures may have any size and colour mode."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from kdnb.datasets.archive import unpacked
from kdnb.datasets.dataset import Dataset, Part, stratified_split
from kdnb.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
LISTED = 10  # how many unreadable pictures one error names
TEST_SHARE = 0.2  # taken from a folder that has no test part
PARTS = ("train", "val", "test")


def image_folder(
    path: Path, *, size: int = 32, seed: int = 0, validation: float = 0.1, cache: Path
) -> Dataset:
    """Loads the data set in a folder of pictures, or in an archive of such a folder.

    A folder may have its parts in ``train/<class>/*`` with ``test/<class>/*``, ``val/<class>/*`` or both. If
    there is no ``test``, ``val`` serves as the test part. A folder may also have only ``<class>/*``. Then a
    fifth of every class becomes the test part.

    Every picture is turned upright, converted to RGB, resized so that its shorter side has ``size`` pixels,
    and cropped around its centre.

    Args:
        path: The folder, or a ``.tar.gz``, ``.tgz`` or ``.zip`` file.

        size: Height and width of the pictures in pixels, at least 8.

        seed: Seed of the splits.

        validation: Share of the training pictures that are held out for validation, if the folder does not
            have all three parts. Every class gives the same share.

        cache: The folder into which archives are unpacked.

    Returns:
        The data set, named after the folder or archive.

    Raises:
        InputError: If the folder is empty, if it has fewer than two classes, if its parts have different
            classes, if a class has too few pictures to split, or if pictures cannot be read. Up to ten
            unreadable pictures are named.
    """
    if size < 8:
        raise InputError(f"size must be at least 8 pixels, found {size}.")
    root = _innermost(unpacked(path, cache=cache) if path.is_file() else path)
    folders = {name: root / name for name in PARTS if (root / name).is_dir()}
    if not folders:
        files, classes = _scan(root)
        train, test = _split_part(_read(files, size), TEST_SHARE, "test", classes, seed)
        return _with_validation(path, classes, train, test, validation, seed)
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
    classes = scans["train"][1]
    for name, (_, found) in scans.items():
        _same_classes(root, name, classes, found)
    parts = {name: _read(files, size) for name, (files, _) in scans.items()}
    if len(parts) == 3:
        train, held_out, test = parts["train"], parts["val"], parts["test"]
        return Dataset.of(path.name, classes, train=train, validation=held_out, test=test)
    test = parts.get("test", parts.get("val"))
    return _with_validation(path, classes, parts["train"], test, validation, seed)


def _with_validation(
    path: Path, classes: tuple[str, ...], train: Part, test: Part, validation: float, seed: int
) -> Dataset:
    train, held_out = _split_part(train, validation, "validation", classes, seed)
    return Dataset.of(path.name, classes, train=train, validation=held_out, test=test)


def _split_part(
    part: Part, share: float, other: str, classes: tuple[str, ...], seed: int
) -> tuple[Part, Part]:
    """Splits a part into what remains and the ``share`` of every class that goes to the ``other`` part."""
    counts = part.labels.bincount(minlength=len(classes)).tolist()
    if min(counts) < 2:
        scarce = [name for name, count in zip(classes, counts, strict=True) if count < 2]
        raise InputError(
            f"There are too few pictures of {', '.join(map(repr, scarce))}: none is left for "
            f"training when one goes to the {other} part. Add pictures; four of a class are always enough."
        )
    taken, kept = stratified_split(part.labels, share, seed=seed)
    return part.take(kept), part.take(taken)


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


def _read(files: list[tuple[Path, int]], size: int) -> Part:
    # Threads would not help, because Pillow holds Python's lock while it decodes.
    pictures = [_picture(file, size) for file, _ in files]
    bad = [f"  {picture}" for picture in pictures if isinstance(picture, str)]
    if bad:
        more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise InputError(
            f"{len(bad)} of {len(files)} pictures cannot be read; remove or replace them:\n"
            + "\n".join(bad[:LISTED])
            + more
        )
    labels = torch.tensor([label for _, label in files])
    return Part(torch.from_numpy(np.stack(pictures)), labels)


def _picture(file: Path, size: int) -> np.ndarray | str:
    """Returns the picture as uint8 (size, size, 3), or a line that says why it cannot be read."""
    try:
        with Image.open(file) as opened:
            opened.draft(None, (4 * size, 4 * size))  # a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size
            ImageOps.exif_transpose(opened, in_place=True)
            image = opened
            if image.mode.startswith("I"):  # with 16 bits for each pixel, keep the high byte
                high = (np.asarray(image) // 256).clip(0, 255)
                image = Image.fromarray(high.astype(np.uint8))
            image = image.convert("RGB")
    except Exception as error:  # decoders raise almost any error for damaged files
        return f"{file}: {type(error).__name__}: {error}"
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)
