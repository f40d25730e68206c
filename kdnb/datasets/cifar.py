"""CIFAR-10 and CIFAR-100, through torchvision's own download and checksum."""

from http.client import HTTPException
from pathlib import Path

import torch
import torchvision

from kdnb.datasets.dataset import Dataset, Part, stratified_split
from kdnb.errors import InputError


def cifar(name: str, *, root: Path, seed: int = 0, validation: float = 0.1) -> Dataset:
    """``"cifar10"`` or ``"cifar100"``, downloaded into ``root`` where it is not there yet.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    Raises InputError when it is neither there nor to be had, as without a connection.
    """
    known = torchvision.datasets
    source = {"cifar10": known.CIFAR10, "cifar100": known.CIFAR100}[name]
    try:
        root.mkdir(parents=True, exist_ok=True)
        learn, test = (source(str(root), train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError, HTTPException) as error:
        raise InputError(
            f"{name} is not in {root} and could not be downloaded ({error}). Connect once, or put "
            f"the archive {source.filename} there, or work offline with data 'shapes'."
        ) from error
    learned, tested = (
        Part(torch.from_numpy(part.data), torch.tensor(part.targets)) for part in (learn, test)
    )
    held_out, kept = stratified_split(learned.labels, validation, seed=seed)
    return Dataset.of(
        name,
        tuple(learn.classes),
        train=learned.take(kept),
        validation=learned.take(held_out),
        test=tested,
    )
