"""Pictures decoded as they are shown: functions of seed, epoch and picture, whoever decodes them."""

from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import assert_same_result, make_noisy_pictures
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from kdnb.datasets import Augmentation, StreamedBatches, decoding, folder, image_folder, streaming
from kdnb.datasets.streaming import IMAGENET_MEAN, IMAGENET_STD, centre, random_box
from kdnb.errors import InputError
from kdnb.methods import KDCL
from kdnb.networks import build
from kdnb.runs.running import run
from kdnb.train import evaluate, train

SIZE = 16


@pytest.fixture
def root(tmp_path) -> Path:
    """Pictures of several shapes."""
    return make_noisy_pictures(tmp_path / "pictures", lambda number: (20 + number % 7, 30 - number % 9, 3))


@pytest.fixture
def data(root, monkeypatch):
    monkeypatch.setattr(folder, "STREAMED", SIZE)
    return image_folder(root, size=SIZE, cache=root.parent / "cache")


def batches_of(data, workers: int = 0, **options) -> StreamedBatches:
    return replace(data.train_batches(5, seed=3), workers=workers, **options)


def by_number(batches: StreamedBatches, epoch: int) -> dict[int, Tensor]:
    """Every image of an epoch by the number of its picture."""
    shown = {}
    for batch in batches.epoch(epoch):
        shown |= dict(zip(batch.indices.tolist(), batch.images, strict=True))
    return shown


def same(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(image, other[n]) for n, image in one.items())


def order_of(batches: StreamedBatches, epoch: int) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches.epoch(epoch)]


class TestTheSizeDecides:
    def test_from_128_pixels_on_a_folder_is_streamed_whatever_the_memory(self, root):
        load = partial(image_folder, root, cache=root.parent / "cache")
        assert load(size=127).loading == "memory"
        for memory in (0, None, 10**15):
            data = load(size=128, memory=memory)
            assert data.loading == "stream"
            assert data.size == 128
        assert not (root.parent / "cache").exists()

    def test_the_parts_are_those_of_a_smaller_size(self, root, data):
        small = image_folder(root, size=8, cache=root.parent / "cache")
        assert data.classes == small.classes
        for part in ("train", "validation", "test"):
            assert torch.equal(getattr(data, part).labels, getattr(small, part).labels)
        assert (data.mean, data.std) == (IMAGENET_MEAN, IMAGENET_STD)

    def test_the_fingerprint_tells_other_files(self, root, data):
        again = partial(image_folder, root, size=SIZE, cache=root.parent / "cache")
        before = data.fingerprint()
        assert again().fingerprint() == before
        assert again(seed=1).fingerprint() != before
        Image.new("RGB", (9, 9)).save(root / "a" / "0.png")
        assert again().fingerprint() != before


class TestFunctionsOfSeedEpochAndPicture:
    def test_the_number_of_workers_changes_nothing(self, data):
        pairs = zip(batches_of(data, 0, views=1).epoch(1), batches_of(data, 2, views=1).epoch(1), strict=True)
        for one, other in pairs:
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.views[0], other.views[0])
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.indices, other.indices)

    def test_the_global_random_state_is_neither_read_nor_moved(self, data):
        torch.manual_seed(1)
        first, state = by_number(batches_of(data, 1), 0), torch.get_rng_state()
        torch.manual_seed(2)
        assert same(by_number(batches_of(data, 1), 0), first)
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_batch_size_changes_the_order_of_no_picture_and_no_crop(self, data):
        one, other = batches_of(data), replace(batches_of(data), batch_size=7)
        assert [*chain(*order_of(one, 2))] == [*chain(*order_of(other, 2))]
        assert same(by_number(one, 2), by_number(other, 2))

    def test_every_epoch_and_seed_and_view_has_its_own(self, data):
        batches = batches_of(data, views=1)
        first, second = by_number(batches, 0), by_number(batches, 1)
        other = by_number(replace(batches, seed=4), 0)
        assert not any(torch.equal(first[n], second[n]) for n in first)
        assert not any(torch.equal(first[n], other[n]) for n in first)
        assert order_of(batches, 0) != order_of(batches, 1)
        batch = next(batches.epoch(0))
        assert not any(torch.equal(*pair) for pair in zip(batch.images, batch.views[0], strict=True))
        assert torch.equal(batch.images, next(batches_of(data).epoch(0)).images), "view 0 is alone the same"

    def test_a_picture_among_few_is_cropped_as_among_all(self, data):
        few, whole = by_number(batches_of(data.few(9, seed=2)), 4), by_number(batches_of(data), 4)
        assert len(few) == 9
        assert all(torch.equal(image, whole[number]) for number, image in few.items())

    def test_the_order_is_that_of_images_in_memory(self, root, data):
        memory = image_folder(root, size=8, cache=root.parent / "cache")
        expected = [batch.indices.tolist() for batch in memory.train_batches(5, seed=3).epoch(1)]
        assert order_of(batches_of(data), 1) == expected

    @pytest.mark.parametrize("processes", [2, 3])
    def test_processes_read_their_shares(self, data, processes, monkeypatch):
        whole = batches_of(data)
        shares = [whole.for_process(rank, processes) for rank in range(processes)]
        for together, *parts in zip(whole.epoch(1), *(s.epoch(1) for s in shares), strict=True):
            sizes = {len(part.labels) for part in parts}
            assert sizes == {-(-len(together.labels) // processes)}
            seen = [number for part in parts for number in part.indices.tolist()]
            assert set(seen) == set(together.indices.tolist())
            for rank, part in enumerate(parts):
                mine = (torch.arange(sizes.copy().pop()) * processes + rank) % len(together.labels)
                assert torch.equal(part.images, together.images[mine])
        opened, read = [], decoding.cut
        monkeypatch.setattr(streaming, "cut", lambda file, *more: opened.append(file) or read(file, *more))
        for _ in shares[0].epoch(0):
            pass
        assert len(opened) == sum(len(part.labels) for part in shares[0].epoch(0)), "and no others"


class TestWhatIsShown:
    def test_evaluation_shows_the_middle_of_the_shorter_side(self):
        assert centre(256, 256) == (16, 16, 240, 240)
        assert centre(512, 256) == (144, 16, 368, 240)
        assert centre(256, 1024) == (16, 400, 240, 624)

    def test_crops_lie_inside_and_within_the_limits(self):
        random = Random(0)
        areas, ratios = [], []
        for _ in range(2000):
            left, upper, right, lower = random_box(500, 375, random=random)
            assert 0 <= left < right <= 500
            assert 0 <= upper < lower <= 375
            areas.append((right - left) * (lower - upper) / (500 * 375))
            ratios.append((right - left) / (lower - upper))
        assert 0.078 < min(areas) < 0.1
        assert 0.9 < max(areas) <= 1
        assert 0.74 < min(ratios) < 0.77
        assert 1.3 < max(ratios) < 1.35
        torch.manual_seed(0)
        usual = [
            RandomResizedCrop.get_params(torch.empty(3, 375, 500), [0.08, 1.0], [3 / 4, 4 / 3])
            for _ in range(2000)
        ]
        found = np.mean([high * wide for _, _, high, wide in usual]) / (500 * 375)
        assert np.mean(areas) == pytest.approx(found, abs=0.02)

    @pytest.mark.parametrize(("size", "expected"), [((1000, 10), 4 / 3), ((10, 1000), 3 / 4)])
    def test_where_no_crop_fits_the_middle_is_shown(self, size, expected):
        left, upper, right, lower = random_box(*size, random=Random(0))
        assert (right - left) / (lower - upper) == pytest.approx(expected)
        assert left + right == pytest.approx(size[0])
        assert upper + lower == pytest.approx(size[1])

    def test_a_crop_is_that_part_of_the_picture(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        found = decoding.cut(tmp_path / "a.png", 16, lambda width, height: (8, 4, 24, 20))
        np.testing.assert_array_equal(found, pixels[4:20, 8:24])

    def test_a_turned_photograph_is_cropped_upright(self, tmp_path):
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[:, :30, 0], pixels[:, 30:, 2] = 255, 255
        exif = Image.Exif()
        exif[0x0112] = 6  # stands upright after a quarter turn with the clock: red above
        Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, exif=exif)
        sizes = []
        found = decoding.cut(tmp_path / "a.jpg", 16, lambda *size: sizes.append(size) or (0, 0, 40, 30))
        assert sizes == [(40, 60)]
        assert found[..., 0].min() > 150
        assert found[..., 2].max() < 100

    def test_a_large_photograph_gives_the_crop_of_the_whole(self, tmp_path):
        """It is decoded at a fraction of its size."""
        small = np.random.default_rng(0).integers(0, 256, (15, 20, 3)).astype(np.uint8)
        large = Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC)
        large.save(tmp_path / "a.jpg", quality=95)
        large.save(tmp_path / "a.png")
        for box in ((0, 0, 1600, 1200), (400, 240, 1200, 1040)):
            jpeg, png = (
                decoding.cut(tmp_path / name, 64, lambda *size, b=box: b).astype(int)
                for name in ("a.jpg", "a.png")
            )
            assert np.abs(jpeg - png).mean() < 4

    def test_pictures_are_mirrored_about_half_of_the_time(self, root, data):
        """Without the flip every crop is the same, mirrored or not."""
        plain = by_number(replace(batches_of(data), augmentation=Augmentation(flip=False)), 0)
        flipped = by_number(batches_of(data), 0)
        mirrored = [torch.equal(flipped[n], image.flip(2)) for n, image in plain.items()]
        assert all(m or torch.equal(flipped[n], plain[n]) for m, n in zip(mirrored, plain, strict=True))
        assert 0.2 < np.mean(mirrored) < 0.8

    def test_parts_are_evaluated_in_order_without_crops(self, data):
        batches = replace(data.batches("test"), workers=0)
        assert batches.batch_size == 64
        [batch] = batches
        assert torch.equal(batch.labels, data.test.labels)
        pixels = data.test.images[:].permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(x)[:, None, None] for x in (data.mean, data.std))
        torch.testing.assert_close(batch.images, (pixels - mean) / std, rtol=0, atol=1e-5)
        assert torch.equal(data.test.images[2], data.test.images[torch.tensor([0, 2])][1])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_pictures_that_cannot_be_read_are_named_when_they_are_shown(self, root, data, workers):
        for number in range(12):
            (root / "a" / f"{2 * number}.png").write_bytes(b"junk")
        batches = replace(data.train_batches(40, augmentation=None), workers=workers)
        with pytest.raises(InputError, match=r"of 29 pictures cannot be read; remove or replace") as caught:
            list(batches)
        assert "UnidentifiedImageError" in str(caught.value)
        with pytest.raises(InputError, match="cannot be read"):
            data.train.images[:]


class TestTraining:
    @pytest.fixture
    def streamed(self, spec, monkeypatch):
        """The small run's spec, its pictures streamed and decoded in this process."""
        monkeypatch.setattr(folder, "STREAMED", 8)
        monkeypatch.setattr(streaming, "cores", lambda: 0)
        return spec

    def test_a_resumed_run_ends_in_the_same_bits_and_the_record_says_stream(self, streamed, tmp_path):
        def stop(row):
            raise KeyboardInterrupt

        record = run(streamed, out=tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            run(streamed, out=tmp_path / "parts", report=stop)
        run(streamed, out=tmp_path / "parts", resume=True)
        assert_same_result(tmp_path / "parts" / streamed.name, tmp_path / "whole" / streamed.name)
        assert record.loading == "stream"

    def test_methods_that_want_views_and_full_batches_get_them(self, data):
        shown = replace(data.train_batches(9), workers=0)
        kdcl = KDCL(
            lambda n: build("resnet8", classes=2, seed=n), data.batches("validation"), target="general"
        )
        seen, forward = [], kdcl.forward
        kdcl.forward = lambda batch, epoch: seen.append(batch) or forward(batch, epoch)
        for _ in train(kdcl, shown, epochs=1, lr=0.01, precision="fp32", device="cpu"):
            pass
        assert {len(batch.views) for batch in seen} == {kdcl.views}
        assert set(evaluate(kdcl, data.batches("test"))) >= {"student1", "ensemble"}
