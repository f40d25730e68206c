"""CIFAR with a stand-in for torchvision's class, online and offline."""

from http.client import IncompleteRead
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from kdnb.datasets import cifar
from kdnb.errors import InputError

CLASSES = [f"class {number}" for number in range(5)]


def stand_in(error: Exception | None = None) -> type:
    """Like torchvision.datasets.CIFAR10, of 100 + 20 small pictures, or failing with ``error``."""

    class Source:
        filename = "cifar-10-python.tar.gz"
        asked: list = []  # noqa: RUF012

        def __init__(self, root, train=True, download=False):
            self.asked.append((root, train, download))
            if error is not None:
                raise error
            count = 100 if train else 20
            self.data = np.zeros((count, 32, 32, 3), np.uint8) + train
            self.data[:, 0, 0, 0] = np.arange(count)
            self.targets = [number % 5 for number in range(count)]
            self.classes = CLASSES

    return Source


@pytest.mark.parametrize(("name", "source"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_parts_and_classes(name, source, monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, source, made := stand_in())
    data = cifar(name, root=tmp_path / "new" / "folder", validation=0.2)
    assert made.asked == [(str(tmp_path / "new" / "folder"), train, True) for train in (True, False)]
    assert (tmp_path / "new" / "folder").is_dir()
    assert (data.name, data.classes) == (name, tuple(CLASSES))
    assert data.train.labels.bincount().tolist() == [16] * 5
    assert data.validation.labels.bincount().tolist() == [4] * 5
    assert data.test.labels.tolist() == [number % 5 for number in range(20)]
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    numbers = torch.cat([data.train.images, data.validation.images])[:, 0, 0, 0]
    assert sorted(numbers.tolist()) == list(range(100))
    for part in (data.train, data.validation):
        assert torch.equal(part.images[:, 0, 0, 0] % 5, part.labels)
    assert (data.test.images[:, 1:] == 0).all()


def test_the_seed_decides_what_is_held_out(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", stand_in())
    prints = [cifar("cifar10", root=tmp_path, seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    "error",
    [
        URLError("Temporary failure in name resolution"),
        RuntimeError("File not found or corrupted."),
        TimeoutError("timed out"),
        IncompleteRead(b"half"),
    ],
)
def test_offline_says_which_file_goes_where(error, monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", stand_in(error))
    with pytest.raises(InputError) as caught:
        cifar("cifar10", root=tmp_path)
    message = str(caught.value)
    for part in (
        "cifar10",
        str(tmp_path),
        "put the archive cifar-10-python.tar.gz there",
        "'shapes'",
    ):
        assert part in message
    assert caught.value.__cause__ is error


def test_a_root_that_cannot_be_made(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", stand_in())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="put the archive"):
        cifar("cifar100", root=tmp_path / "file" / "data")
