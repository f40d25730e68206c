"""Data sets in memory: statistics, splits, fewer labels, fingerprints, and ``load`` by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kdnb import datasets
from kdnb.datasets import Dataset, Part, stratified_split
from kdnb.errors import InputError


def a_part(counts: list[int], *, seed: int = 0, size: int = 8) -> Part:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    images = torch.randint(0, 256, (len(labels), size, size, 3), generator=generator)
    return Part(images.to(torch.uint8), labels)


def a_dataset(counts: tuple[int, ...] = (40, 20, 10)) -> Dataset:
    classes = tuple(f"class {number}" for number in range(len(counts)))
    few = [4] * len(counts)
    parts = {"validation": a_part(few, seed=1), "test": a_part(few, seed=2)}
    return Dataset.of("small", classes, train=a_part(list(counts)), **parts)


class TestStatistics:
    def test_mean_and_std_are_those_of_numpy(self):
        data = a_dataset()
        pixels = data.train.images.numpy().astype(np.float64) / 255
        np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-12)

    def test_only_the_training_part_counts(self):
        data = a_dataset()
        other = Dataset.of(
            "other", data.classes, train=data.train, validation=a_part([9, 9, 9]), test=data.test
        )
        assert (other.mean, other.std) == (data.mean, data.std)

    def test_one_colour_has_a_spread_that_can_be_divided_by(self):
        grey = Part(torch.full((4, 8, 8, 3), 51, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
        data = Dataset.of("grey", ("a", "b"), train=grey, validation=grey, test=grey)
        assert data.mean == pytest.approx((0.2,) * 3)
        assert data.std == (1 / 255,) * 3

    def test_size(self):
        assert a_dataset().size == 8


class TestSplit:
    def test_every_class_gives_its_share(self):
        labels = a_part([100, 50, 20]).labels
        chosen, rest = stratified_split(labels, 0.2, seed=0)
        assert labels[chosen].bincount().tolist() == [20, 10, 4]
        assert labels[rest].bincount().tolist() == [80, 40, 16]

    def test_disjoint_and_complete(self):
        labels = a_part([31, 17, 5]).labels
        chosen, rest = stratified_split(labels, 0.37, seed=4)
        assert sorted(torch.cat([chosen, rest]).tolist()) == list(range(53))

    @pytest.mark.parametrize("fraction", [0.1, 0.25, 0.33, 0.5, 0.9])
    def test_the_total_is_exact_although_classes_are_rounded(self, fraction):
        counts = [417, 417, 416, 416, 33, 7]
        labels = a_part(counts, size=1).labels
        chosen, _ = stratified_split(labels, fraction, seed=0)
        assert len(chosen) == round(fraction * sum(counts))
        shares = labels[chosen].bincount(minlength=6)
        assert (shares - fraction * torch.tensor(counts)).abs().max() < 1

    @pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
    def test_every_class_stays_on_both_sides(self, fraction):
        labels = a_part([2, 3, 50]).labels
        for side in stratified_split(labels, fraction, seed=0):
            assert (labels[side].bincount(minlength=3) >= 1).all()

    def test_the_seed_decides(self):
        labels = a_part([40, 40]).labels
        one, same, other = (stratified_split(labels, 0.5, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(one[0], same[0])
        assert torch.equal(one[1], same[1])
        assert set(one[0].tolist()) != set(other[0].tolist())

    def test_both_sides_are_mixed(self):
        labels = torch.arange(4).repeat_interleave(50)
        for side in stratified_split(labels, 0.5, seed=0):
            assert labels[side].tolist() != sorted(labels[side].tolist())

    def test_a_class_of_one_image_is_refused(self):
        with pytest.raises(InputError, match="Class number 1 has one image"):
            stratified_split(torch.tensor([0, 0, 1, 2, 2]), 0.5, seed=0)

    def test_the_global_random_state_is_left_alone(self):
        before = torch.get_rng_state()
        stratified_split(a_part([40, 40]).labels, 0.5, seed=0)
        assert torch.equal(before, torch.get_rng_state())


class TestFew:
    def test_classes_stay_in_proportion(self):
        few = a_dataset((40, 20, 10)).few(14)
        assert few.train.labels.bincount().tolist() == [8, 4, 2]

    @pytest.mark.parametrize("count", [3, 4, 10, 33, 68, 69])
    def test_there_are_exactly_as_many_as_asked_for_and_of_every_class(self, count):
        few = a_dataset((40, 20, 10)).few(count)
        assert len(few.train) == count
        assert (few.train.labels.bincount(minlength=3) >= 1).all()

    def test_a_rare_class_is_not_lost(self):
        shares = a_dataset((1000, 2, 2)).few(5).train.labels.bincount(minlength=3)
        assert shares.tolist() == [3, 1, 1]

    def test_images_are_from_the_training_part_with_their_labels(self):
        data = a_dataset()
        whole = {image.numpy().tobytes(): int(y) for image, y in zip(*_pairs(data), strict=True)}
        few = data.few(20)
        for image, label in zip(*_pairs(few), strict=True):
            assert whole[image.numpy().tobytes()] == int(label)

    def test_the_rest_stays(self):
        data = a_dataset()
        few = data.few(9)
        assert (few.mean, few.std, few.classes) == (data.mean, data.std, data.classes)
        assert few.validation is data.validation
        assert few.test is data.test
        assert len(data.train) == 70

    def test_the_seed_decides(self):
        data = a_dataset()
        assert data.few(9, seed=1).fingerprint() == data.few(9, seed=1).fingerprint()
        assert data.few(9, seed=1).fingerprint() != data.few(9, seed=2).fingerprint()

    @pytest.mark.parametrize("count", [70, 71, 10**6])
    def test_more_than_there_is_keeps_everything(self, count):
        data = a_dataset()
        assert data.few(count) is data

    @pytest.mark.parametrize("count", [2, 0, -1])
    def test_fewer_images_than_classes_are_refused(self, count):
        with pytest.raises(InputError, match=f"{count} images cannot show 3 classes"):
            a_dataset().few(count)


class TestMislabelled:
    def test_the_share_of_the_labels_is_wrong_and_nothing_else_differs(self):
        data = a_dataset()
        noisy = data.mislabelled(0.3, seed=4)
        assert (noisy.train.labels != data.train.labels).sum() == 21  # of 70
        assert torch.equal(noisy.train.images, data.train.images)
        assert noisy.validation is data.validation
        assert noisy.test is data.test

    def test_all_other_classes_are_drawn(self):
        data = a_dataset()
        wrong = (data.mislabelled(1.0).train.labels - data.train.labels) % 3
        assert set(wrong.tolist()) == {1, 2}

    def test_the_seed_chooses(self):
        one, same, other = (a_dataset().mislabelled(0.5, seed=seed).train.labels for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_fewer_images_keep_their_numbers(self):
        data = a_dataset().few(20)
        assert torch.equal(data.mislabelled(0.5).train.numbers, data.train.numbers)

    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
    def test_no_share_is_refused(self, share):
        with pytest.raises(InputError, match="must be between 0 and 1"):
            a_dataset().mislabelled(share)


class TestNumbers:
    def test_a_whole_part_is_numbered_as_it_lies(self):
        data = a_dataset()
        assert data.train.indices is None
        assert data.train.numbers.tolist() == list(range(70))

    def test_few_images_keep_their_numbers(self):
        data = a_dataset()
        few = data.few(20, seed=3)
        assert len(set(few.train.numbers.tolist())) == 20
        assert torch.equal(data.train.images[few.train.numbers], few.train.images)
        assert torch.equal(data.train.labels[few.train.numbers], few.train.labels)

    def test_fewer_of_few_are_still_numbered_by_the_whole_part(self):
        data = a_dataset()
        fewest = data.few(40).few(9)
        assert torch.equal(data.train.images[fewest.train.numbers], fewest.train.images)

    def test_shuffled_batches_name_the_images_of_the_whole_part(self):
        data = a_dataset()
        for shown in (data, data.few(20)):
            batches, seen = shown.train_batches(8, augmentation=None, seed=4), []
            plain = data.batches("train", 70)
            [everything] = plain
            for batch in batches.epoch(2):
                assert torch.equal(batch.images, everything.images[batch.indices])
                assert torch.equal(batch.labels, data.train.labels[batch.indices])
                seen.extend(batch.indices.tolist())
            assert sorted(seen) == sorted(shown.train.numbers.tolist())

    def test_taking_some_numbers_them_anew(self):
        part = a_dataset().few(20).train.take(torch.tensor([4, 2]))
        assert part.indices is None
        assert part.numbers.tolist() == [0, 1]


def _pairs(data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    return data.train.images, data.train.labels


class TestFingerprint:
    @pytest.mark.parametrize("part", ["train", "validation", "test"])
    @pytest.mark.parametrize("what", ["images", "labels"])
    def test_one_pixel_or_label_changes_it(self, part, what):
        data = a_dataset()
        values = getattr(getattr(data, part), what).clone()
        values.flatten()[-1] ^= 1
        changed = replace(data, **{part: replace(getattr(data, part), **{what: values})})
        assert changed.fingerprint() != data.fingerprint()
        assert a_dataset().fingerprint() == data.fingerprint()

    def test_class_names_change_it(self):
        data = a_dataset()
        other = replace(data, classes=("cat", *data.classes[1:]))
        assert other.fingerprint() != data.fingerprint()


class TestBatchesOfAPart:
    @pytest.mark.parametrize("part", ["train", "validation", "test"])
    def test_stored_order_without_augmentation(self, part):
        data = a_dataset()
        labels = torch.cat([labels for _, labels in data.batches(part, 7)])
        assert torch.equal(labels, getattr(data, part).labels)

    def test_an_unknown_part(self):
        with pytest.raises(InputError, match="Did you mean 'validation'"):
            a_dataset().batches("valid")

    def test_training_batches_are_shuffled_and_augmented(self):
        batches = a_dataset().train_batches(8, seed=5, drop_last=True)
        assert batches.shuffle
        assert batches.augmentation == datasets.Augmentation()
        assert (batches.batch_size, batches.seed, len(batches)) == (8, 5, 8)


class TestLoad:
    def test_shapes_by_name(self, monkeypatch):
        """4,500 + 500 pictures at the usual share."""
        asked = []
        monkeypatch.setattr(datasets, "shapes", lambda **named: asked.append(named))
        datasets.load("shapes")
        datasets.load("shapes", validation=0.2, seed=3, size=64)
        assert asked == [
            {"seed": 0, "size": 32, "train": 4500, "validation": 500},
            {"seed": 3, "size": 64, "train": 4000, "validation": 1000},
        ]

    def test_the_first_edition_of_shapes_by_name(self, monkeypatch):
        asked = []
        monkeypatch.setattr(datasets, "shapes_v1", lambda **named: asked.append(named))
        datasets.load("shapes-v1", seed=3)
        assert asked == [{"seed": 3, "train": 4500, "validation": 500}]

    @pytest.mark.parametrize(
        ("name", "size", "known"),
        [("shapes", 48, "32 or 64"), ("shapes-v1", 64, "32"), ("cifar10", 64, "32"), ("cifar100", 31, "32")],
    )
    def test_named_data_come_in_their_own_sizes(self, name, size, known):
        with pytest.raises(InputError, match=f"of {name} are {known} pixels high and wide; size was {size}"):
            datasets.load(name, size=size)

    def test_shapes_have_as_many_pictures_as_asked_for(self):
        data = datasets.shapes(train=45, validation=13, test=20)
        parts = (data.train, data.validation, data.test)
        assert [len(part) for part in parts] == [45, 13, 20]

    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_cifar_by_name(self, name, tmp_path, monkeypatch):
        asked = []
        monkeypatch.setattr(datasets, "cifar", lambda *args, **named: asked.append((args, named)))
        datasets.load(name, seed=4, validation=0.3, root=tmp_path)
        assert asked == [((name,), {"root": tmp_path, "seed": 4, "validation": 0.3})]

    def test_a_folder_by_path(self, tmp_path):
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            for number in range(5):
                Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
        data = datasets.load(str(tmp_path), size=16, root=tmp_path / "elsewhere")
        assert data.classes == ("cat", "dog")
        assert data.size == 16
        assert not (tmp_path / "elsewhere").exists()

    @pytest.mark.parametrize(("name", "nearest"), [("shape", "shapes"), ("cifar", "cifar10")])
    def test_an_unknown_name_suggests_the_nearest(self, name, nearest, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=f"Unknown data set.*{name!r}") as caught:
            datasets.load(name)
        assert f"Did you mean {nearest!r}" in str(caught.value)
        assert "cifar100" in str(caught.value)

    @pytest.mark.parametrize("path", ["nowhere/pictures", "pictures.zip", "~/no/such.tar.gz"])
    def test_a_missing_path(self, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=r"There is nothing at .*shapes, shapes-v1, cifar10, cifar100"):
            datasets.load(path)

    @pytest.mark.parametrize("validation", [0, 1, -0.1, 1.5, float("nan")])
    @pytest.mark.parametrize("data", ["shapes", "cifar10"])
    def test_validation_out_of_range(self, data, validation):
        with pytest.raises(InputError, match="validation must be a share between 0 and 1, found"):
            datasets.load(data, validation=validation)
