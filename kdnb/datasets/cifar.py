"""CIFAR-10 and CIFAR-100, which torchvision downloads and verifies."""

from http.client import HTTPException
from pathlib import Path

import torch
import torchvision

from kdnb.datasets.dataset import Dataset, Part, stratified_split
from kdnb.errors import InputError


def cifar(name: str, *, root: Path, seed: int = 0, validation: float = 0.1) -> Dataset:
    """Loads CIFAR-10 or CIFAR-100, and downloads it if it is not there yet.

    Args:
        name: Either ``"cifar10"`` or ``"cifar100"``.

        root: The folder into which the data set is downloaded.

        seed: Seed of the split into training and validation part.

        validation: Share of the training pictures that are held out for validation. Every class gives the
            same share.

    Returns:
        The data set.

    Raises:
        InputError: If the data set is not in the folder and cannot be downloaded, for example without a
            connection.

    Source:
        A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    source = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    try:
        root.mkdir(parents=True, exist_ok=True)
        train_source, test_source = (
            source(str(root), train=is_train, download=True) for is_train in (True, False)
        )
    except (OSError, RuntimeError, HTTPException) as error:
        raise InputError(
            f"{name} is not in {root} and could not be downloaded ({error}). Connect once, or put "
            f"the archive {source.filename} there, or work offline with data 'shapes'."
        ) from error
    train, test = (
        Part(torch.from_numpy(part.data), torch.tensor(part.targets)) for part in (train_source, test_source)
    )
    held_out, kept = stratified_split(train.labels, validation, seed=seed)
    return Dataset.of(
        name,
        tuple(train_source.classes),
        train=train.take(kept),
        validation=train.take(held_out),
        test=test,
    )
