"""Batches against a slow reference that pads, slices and flips one picture at a time."""

import dataclasses

import numpy as np
import pytest
import torch

from kdnb.datasets import Augmentation, Batch, Batches
from kdnb.errors import InputError
from kdnb.seeds import derived_seed

MEAN, SPREAD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)


def some_batches(count=23, height=8, width=8, batch_size=5, **options) -> Batches:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, height, width, 3), generator=generator)
    images, labels = pixels.to(torch.uint8), torch.arange(count)
    return Batches(images, labels, batch_size, MEAN, SPREAD, **options)


def whole_epoch(batches: Batches, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches.epoch(number), strict=True)
    return torch.cat(images), torch.cat(labels)


def pixels_of(images: torch.Tensor) -> np.ndarray:
    """Normalised (B, 3, H, W) back to uint8 (B, H, W, 3)."""
    pixels = images.permute(0, 2, 3, 1).numpy() * np.array(SPREAD) + np.array(MEAN)
    return (pixels * 255).round().astype(np.uint8)


def test_normalisation_in_closed_form():
    batches = some_batches()
    images, labels = whole_epoch(batches, 0)
    scaled = batches.images.double() / 255
    expected = (scaled - torch.tensor(MEAN).double()) / torch.tensor(SPREAD).double()
    torch.testing.assert_close(images.double(), expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)
    assert labels.tolist() == list(range(23))


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_batches_are_float32_in_channels_last(augmentation):
    for images, _ in some_batches(augmentation=augmentation):
        assert images.dtype == torch.float32
        assert images.shape[1:] == (3, 8, 8)
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("padding", "mode"), [("zero", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize(("height", "width", "pad"), [(8, 8, 4), (9, 6, 5)])
def test_crop_and_flip_equal_pad_slice_and_flip(padding, mode, height, width, pad):
    """The draws are replayed, so every picture has one right answer."""
    augmentation = Augmentation(flip=True, pad=pad, padding=padding)
    batches = some_batches(count=64, height=height, width=width, batch_size=64, seed=3)
    batches = dataclasses.replace(batches, augmentation=augmentation)
    generator = torch.Generator().manual_seed(derived_seed(3, "batches", 2))
    down, right = torch.randint(0, 2 * pad + 1, (2, 64), generator=generator).tolist()
    flips = (torch.rand(64, generator=generator) < 0.5).tolist()
    expected = []
    for picture, top, left, flip in zip(batches.images.numpy(), down, right, flips, strict=True):
        padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
        crop = padded[top : top + height, left : left + width]
        expected.append(crop[:, ::-1] if flip else crop)
    images, _ = whole_epoch(batches, 2)
    np.testing.assert_array_equal(pixels_of(images), np.stack(expected))
    assert 10 < sum(flips) < 54


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_every_picture_is_some_crop_and_all_offsets_occur(padding):
    """Without knowledge of the draws: search the offset and flip that give each picture."""
    count, pad = 200, 1
    augmentation = Augmentation(pad=pad, padding=padding)
    batches = some_batches(count=count, batch_size=count, augmentation=augmentation)
    mode = {"zero": "constant", "reflect": "reflect"}[padding]
    seen = set()
    for picture, found in zip(batches.images.numpy(), pixels_of(whole_epoch(batches, 0)[0]), strict=True):
        padded = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
        matches = [
            (top, left, flip)
            for top in range(3)
            for left in range(3)
            for flip in (1, -1)
            if np.array_equal(padded[top : top + 8, left : left + 8][:, ::flip], found)
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 18


def test_without_flip_or_pad_pictures_stay_as_they_are():
    plain = some_batches()
    still = some_batches(augmentation=Augmentation(flip=False, pad=0))
    assert torch.equal(whole_epoch(plain, 0)[0], whole_epoch(still, 0)[0])
    only_flip = some_batches(count=64, augmentation=Augmentation(flip=True, pad=0))
    original, flipped = whole_epoch(some_batches(count=64), 0)[0], whole_epoch(only_flip, 0)[0]
    same = (original == flipped).flatten(1).all(1)
    mirrored = (original.flip(3) == flipped).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < same.sum() < 48


def test_an_epoch_depends_on_the_seed_and_its_number_alone():
    options = {"shuffle": True, "augmentation": Augmentation(pad=2)}
    batches = some_batches(seed=7, **options)
    again = some_batches(seed=7, **options)
    list(again.epoch(0))  # what was drawn before must not matter
    torch.manual_seed(99)
    for first, second in zip(batches.epoch(3), again.epoch(3), strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    other_epoch, other_seed = (
        whole_epoch(batches, 4),
        whole_epoch(some_batches(seed=8, **options), 3),
    )
    for other in (other_epoch, other_seed):
        assert not torch.equal(whole_epoch(batches, 3)[1], other[1])
        assert not torch.equal(whole_epoch(batches, 3)[0], other[0])


def test_augmentation_differs_between_epochs_also_in_stored_order():
    batches = some_batches(augmentation=Augmentation(pad=2))
    assert not torch.equal(whole_epoch(batches, 0)[0], whole_epoch(batches, 1)[0])


def test_iterating_gives_epoch_0():
    batches = some_batches(shuffle=True)
    labels = torch.cat([labels for _, labels in batches])
    assert torch.equal(labels, whole_epoch(batches, 0)[1])


@pytest.mark.parametrize("number", [0, 1, 17])
def test_a_shuffled_epoch_covers_every_image_once_and_pairs_stay(number):
    batches = some_batches(shuffle=True)
    images, labels = whole_epoch(batches, number)
    assert sorted(labels.tolist()) == list(range(23))
    assert labels.tolist() != list(range(23))
    np.testing.assert_array_equal(pixels_of(images), batches.images[labels].numpy())


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [(23, False, [10, 10, 3]), (23, True, [10, 10]), (20, False, [10, 10]), (20, True, [10, 10])],
)
def test_lengths(count, drop_last, sizes):
    batches = some_batches(count=count, batch_size=10, drop_last=drop_last)
    assert len(batches) == len(sizes)
    assert [len(labels) for _, labels in batches] == sizes


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    whole_epoch(some_batches(shuffle=True, augmentation=Augmentation(pad=2)), 1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_data_are_not_changed():
    batches = some_batches(shuffle=True, augmentation=Augmentation(pad=3))
    before = batches.images.clone()
    whole_epoch(batches, 0)
    assert torch.equal(before, batches.images)


@pytest.mark.parametrize("batch_size", [0, -3])
def test_a_batch_holds_at_least_one_image(batch_size):
    with pytest.raises(InputError, match=f"at least 1, found {batch_size}"):
        some_batches(batch_size=batch_size)


@pytest.mark.parametrize("pad", [-1, 6, 40])
def test_pad_must_fit_the_shorter_side(pad):
    with pytest.raises(InputError, match=f"between 0 and 5 for this size, found {pad}"):
        some_batches(height=8, width=6, augmentation=Augmentation(pad=pad))


def test_dropping_everything_is_refused():
    with pytest.raises(InputError, match="23 images do not fill one batch of 24"):
        some_batches(batch_size=24, drop_last=True)


def test_an_unknown_padding_is_refused():
    with pytest.raises(InputError, match="Did you mean 'reflect'"):
        Augmentation(padding="reflection")


# What a batch carries besides images and labels


def a_batch() -> Batch:
    images, views = torch.arange(24.0).view(4, 3, 1, 2), (torch.ones(4, 3, 1, 2), torch.rand(4, 3, 1, 2))
    return Batch(images, torch.arange(4), torch.tensor([7, 5, 3, 1]), views)


def test_a_batch_reads_as_the_pair_of_its_images_and_labels():
    batch = a_batch()
    images, labels = batch
    assert images is batch.images is batch[0]
    assert labels is batch.labels is batch[1]
    assert len(list(batch)) == 2
    with pytest.raises(IndexError):
        batch[2]


def test_a_pair_becomes_a_batch_and_a_batch_stays_itself():
    batch = a_batch()
    assert Batch.of(batch) is batch
    for pair in ((batch.images, batch.labels), [batch.images, batch.labels]):
        found = Batch.of(pair)
        assert (found.images, found.labels) == (batch.images, batch.labels)
        assert (found.indices, found.views) == (None, ())


def test_take_takes_everything_that_belongs_to_an_image():
    batch, rows = a_batch(), torch.tensor([3, 0, 3])
    found = batch.take(rows)
    assert torch.equal(found.images, batch.images[rows])
    assert found.labels.tolist() == [3, 0, 3]
    assert found.indices.tolist() == [1, 7, 1]
    assert [len(view) for view in found.views] == [3, 3]
    assert all(torch.equal(taken, view[rows]) for taken, view in zip(found.views, batch.views, strict=True))
    assert Batch(batch.images, batch.labels).take(rows).indices is None


def test_to_brings_everything_along():
    found = a_batch().to(torch.device("meta"))
    assert {tensor.device.type for tensor in (*found, found.indices, *found.views)} == {"meta"}
    assert Batch(*a_batch()).to(torch.device("meta")).indices is None


@pytest.mark.parametrize("own", [False, True])
def test_indices_name_the_images_whatever_the_order(own):
    names = torch.arange(23).flip(0) + 1000 if own else None
    batches = some_batches(shuffle=True, augmentation=Augmentation(pad=2), indices=names)
    for epoch in (0, 1):
        for batch in batches.epoch(epoch):  # labels number the images here
            expected = batch.labels if names is None else names[batch.labels]
            assert batch.indices.tolist() == expected.tolist()
            assert batch.indices.dtype == torch.int64


def test_further_views_differ_and_the_first_is_the_same_with_and_without_them():
    options = {"shuffle": True, "augmentation": Augmentation(pad=2), "seed": 5}
    alone, viewed = some_batches(**options), some_batches(views=2, **options)
    for plain, batch in zip(alone.epoch(3), viewed.epoch(3), strict=True):
        assert plain.views == ()
        assert torch.equal(plain.images, batch.images)
        assert torch.equal(plain.indices, batch.indices)
        assert len(batch.views) == 2
        shown = (batch.images, *batch.views)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert shown[one].shape == shown[other].shape
            assert not torch.equal(shown[one], shown[other])


def test_a_further_view_is_of_the_same_images_and_depends_on_its_number_and_the_epoch_alone():
    options = {"shuffle": True, "augmentation": Augmentation(flip=True, pad=0), "seed": 5}
    batches = some_batches(views=2, **options)
    seen = []
    for batch in batches.epoch(1):
        for view in batch.views:
            same, mirrored = (
                (view == images).flatten(1).all(1) for images in (batch.images, batch.images.flip(3))
            )
            assert (same | mirrored).all()
        seen.append(batch.views[0])
    fewer = [batch.views[0] for batch in some_batches(views=1, **options).epoch(1)]
    assert all(torch.equal(one, other) for one, other in zip(seen, fewer, strict=True))
    later = [batch.views[0] for batch in batches.epoch(2)]
    assert not torch.equal(torch.cat(seen), torch.cat(later))


def test_views_without_augmentation_are_refused():
    with pytest.raises(InputError, match=r"2 further views .* not augmented, so all views would be the same"):
        some_batches(views=2)
