"""Pictures that memory shall not hold: the same bits from a cache, which is whole or not there."""

import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from small_runs import make_noisy_pictures

from kdnb.datasets import Augmentation, Batches, cache, decoding, image_folder, images, load
from kdnb.datasets.dataset import Dataset
from kdnb.datasets.images import MappedImages, chunks, placed
from kdnb.errors import InputError


@pytest.fixture
def root(tmp_path) -> Path:
    """Pictures that are larger than they will be."""
    return make_noisy_pictures(tmp_path / "pictures", lambda number: (15, 12, 3))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "root" / "cache"


@pytest.fixture
def read(root, folder):
    """The data set under a budget in bytes; 40 pictures of 8 pixels take 7,680."""
    return lambda budget: image_folder(root, size=8, cache=folder, memory=budget)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def same_batches(one: Batches, other: Batches) -> bool:
    pairs = zip(one.epoch(3), other.epoch(3), strict=True)
    return all(
        torch.equal(a, b)
        for first, second in pairs
        for a, b in zip(
            (*first, first.indices, *first.views), (*second, second.indices, *second.views), strict=True
        )
    )


def test_the_budget_decides(read, folder):
    assert read(7_680).loading == "memory"
    assert not folder.exists()
    data = read(7_679)
    assert data.loading == "cache"
    assert isinstance(data.train.images, MappedImages)
    [name] = kept(folder)
    assert name.startswith("pictures-8px-")
    assert (folder / name).stat().st_size == 7_680


def test_load_hands_the_budget_on_and_keeps_the_cache_below_root(root, folder):
    assert load(root, size=8, root=folder.parent, memory=0).loading == "cache"
    assert len(kept(folder)) == 1
    assert load(root, size=8, root=folder.parent).loading == "memory"


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads_decodes_the_same_bits_in_order(root, threads, monkeypatch):
    monkeypatch.setattr(decoding, "cores", lambda: threads)
    monkeypatch.setattr(decoding, "AT_ONCE", 3)
    files = sorted(root.rglob("*.png"))
    found = np.stack(list(decoding.decoded(files, 8)))
    np.testing.assert_array_equal(found, [decoding.square(file, 8) for file in files])


def test_few_pictures_wait_while_one_is_used(root, monkeypatch):
    monkeypatch.setattr(decoding, "cores", lambda: 2)
    monkeypatch.setattr(decoding, "AT_ONCE", 2)
    opened = []
    whole = decoding.square
    monkeypatch.setattr(decoding, "square", lambda file, size: opened.append(file) or whole(file, size))
    pictures = decoding.decoded(sorted(root.rglob("*.png")), 8)
    next(pictures)
    time.sleep(0.2)  # in which the threads could decode all forty
    pictures.close()
    assert len(opened) <= 10  # five groups of two: four and the next one


def test_the_cache_gives_the_bits_of_memory(read):
    memory, mapped = read(None), read(0)
    assert mapped.fingerprint() == memory.fingerprint()
    assert (mapped.mean, mapped.std, mapped.size) == (memory.mean, memory.std, memory.size)
    for augmentation in (None, Augmentation(pad=2), Augmentation(pad=2, padding="reflect")):
        options = {"seed": 1, "augmentation": augmentation}
        assert same_batches(mapped.train_batches(7, **options), memory.train_batches(7, **options))
    pair = [data.few(9, seed=5) for data in (mapped, memory)]
    assert pair[0].train.numbers.tolist() == pair[1].train.numbers.tolist()
    with_views = [Batches(**vars(d.train_batches(4, seed=2)) | {"views": 2}) for d in pair]
    assert same_batches(*with_views)
    for part in ("train", "validation", "test"):
        assert same_batches(mapped.batches(part), memory.batches(part))


def test_a_mapped_part_reads_like_a_tensor(read):
    mapped, memory = read(0).train.images, read(None).train.images
    assert mapped.shape == memory.shape
    assert len(mapped) == len(memory)
    for index in (3, -1, slice(2, 9), torch.tensor([4, 4, 0]), torch.arange(len(memory)) % 2 == 0):
        assert torch.equal(mapped[index], memory[index])


def test_parts_of_a_mapped_set_share_the_file_and_copy_nothing(read):
    data = read(0)
    maps = [part.images.pixels for part in (data.train, data.test, data.few(9).train, data.validation)]
    assert all(np.shares_memory(maps[0], other) for other in maps)
    assert not maps[0].flags.owndata
    assert not maps[0].flags.writeable


def test_statistics_and_fingerprint_read_a_few_images_at_a_time(read, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 3 * 8 * 8 * 3)
    memory, mapped = read(None), read(0)
    assert max(map(len, chunks(mapped.train.images))) == 3
    assert mapped.fingerprint() == memory.fingerprint()
    assert mapped.mean == memory.mean
    pixels = memory.train.images.double() / 255
    assert memory.mean == pytest.approx(pixels.mean((0, 1, 2)).tolist())
    assert memory.std == pytest.approx(pixels.std((0, 1, 2), correction=0).tolist())


def test_a_cache_is_made_once(read, monkeypatch):
    read(0)
    monkeypatch.setattr(cache, "decoded", None)
    read(0)


@pytest.mark.parametrize("change", ["time", "size", "more", "renamed"])
def test_a_changed_folder_gets_another_cache(read, root, folder, change):
    before = read(0)
    file = root / "a" / "0.png"
    if change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "size":
        before_it = file.stat()
        Image.new("RGB", (9, 9)).save(file)
        os.utime(file, ns=(before_it.st_atime_ns, before_it.st_mtime_ns))
    elif change == "more":
        shutil.copy(file, root / "a" / "100.png")
    else:
        file.rename(root / "a" / "101.png")
    after = read(0)
    assert len(kept(folder)) == 2
    assert (after.fingerprint() == before.fingerprint()) == (change == "time")


def test_a_half_written_cache_is_never_used_and_removed_by_the_next(read, folder):
    expected = read(0).fingerprint()
    [name] = kept(folder)
    whole = (folder / name).read_bytes()
    (folder / name).rename(folder / f".{name}.partial")  # what SIGKILL leaves
    (folder / f".{name}.partial").write_bytes(whole[:1000])
    (folder / ".other-8px-0123.rgb.partial").write_bytes(whole[:1000])
    assert read(0).fingerprint() == expected
    assert kept(folder) == [name]
    (folder / name).write_bytes(whole[:1000])  # a file system that lost the end of it
    assert read(0).fingerprint() == expected


def test_what_another_process_is_writing_stays(read, folder):
    folder.mkdir(parents=True)
    partial = folder / ".other-8px-0123.rgb.partial"
    partial.write_bytes(b"some")
    with FileLock(partial.with_suffix(".lock")):
        read(0)
    assert partial.exists()


def test_an_interrupted_call_leaves_nothing(read, folder, monkeypatch):
    def interrupted(files, size):
        yield np.zeros((size, size, 3), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "decoded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(0)
    assert kept(folder) == []


def test_two_that_make_it_at_once_make_it_once(read, folder, monkeypatch):
    calls, whole = [], cache.decoded
    monkeypatch.setattr(cache, "decoded", lambda *what: calls.append(what) or whole(*what))
    prints = []
    threads = [threading.Thread(target=lambda: prints.append(read(0).fingerprint())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(prints) == 4
    assert len(set(prints)) == 1


def test_too_little_disk_is_told_before_decoding(read, folder, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    monkeypatch.setattr(cache, "decoded", None)
    with pytest.raises(InputError, match=r"need 0\.01 MB of disk in .*0\.01 MB are free.*--data-root"):
        read(0)
    assert kept(folder) == []


def test_a_disk_that_fills_is_told_and_leaves_nothing(read, folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(InputError, match=r"need 0\.01 MB of disk in .*No space left on device"):
        read(0)
    assert kept(folder) == []


def test_unreadable_pictures_are_named_and_no_cache_is_left(read, root, folder):
    (root / "b" / "1.png").write_bytes(b"junk")
    (root / "a" / "gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(InputError, match="2 of 41 pictures cannot be read") as caught:
        read(0)
    lines = str(caught.value).splitlines()
    assert "gone.png: FileNotFoundError" in lines[1]
    assert "1.png: UnidentifiedImageError" in lines[2]
    assert kept(folder) == []


class TestOnAGpu:
    """Where batches come from, decided on a machine without one."""

    def test_images_that_do_not_fit_stay(self, read, monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 7_680 // 2, 0))
        data, device = read(None), torch.device("cuda")
        assert placed(data.train.images, device) is data.train.images
        mapped = read(0).train.images
        assert placed(mapped, device) is mapped

    def test_a_store_is_copied_piece_by_piece_where_it_fits(self, read, monkeypatch):
        mapped, copies = read(0).train.images, []
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 7_680, 0))
        monkeypatch.setattr(images, "CHUNK", 3 * 8 * 8 * 3)
        empty, to = torch.empty, torch.Tensor.to
        monkeypatch.setattr(torch, "empty", lambda shape, *, dtype, device: empty(shape, dtype=dtype))
        monkeypatch.setattr(torch.Tensor, "to", lambda x, where: copies.append(len(x)) or to(x, "cpu"))
        found = mapped.on(torch.device("cuda"))
        assert torch.equal(found, mapped[:])
        assert max(copies) == 3

    def test_batches_from_images_elsewhere_are_gathered_first(self, read):
        """Labels tell the device: on "meta" the images of a batch are gathered, then brought there."""
        batches: Batches = read(0).train_batches(7)
        there = Batches(
            **vars(batches) | {"labels": batches.labels.to("meta"), "images": read(None).train.images}
        )
        first = next(there.epoch(0))
        assert first.images.device.type == "meta"
        assert first.images.shape == (7, 3, 8, 8)


@pytest.mark.slow
def test_a_dataset_in_memory_is_as_before():
    part = load("shapes").validation
    data = Dataset.of("some", ("a", "b"), train=part, validation=part, test=part)
    assert data.loading == "memory"
    assert data.train.images is part.images
