"""Shapes of the first edition: the bits of its records, masks that fit, and a cue that misleads."""

import pytest
import torch

from kdnb.datasets.shapes_v1 import CLASSES, draw, shapes_v1
from kdnb.runs.records import FIRST_SHAPES

SMALL = {"train": 240, "validation": 60, "test": 120}


@pytest.fixture(scope="module")
def small():
    return shapes_v1(seed=0, **SMALL)


@pytest.mark.slow
def test_the_pictures_are_those_of_the_records():
    assert shapes_v1().fingerprint() == FIRST_SHAPES


def test_the_same_seed_gives_the_same_bits(small):
    again = shapes_v1(seed=0, **SMALL)
    assert again.fingerprint() == small.fingerprint()
    assert torch.equal(again.train.masks, small.train.masks)


def test_another_seed_gives_other_pictures(small):
    other = shapes_v1(seed=1, **SMALL)
    assert other.fingerprint() != small.fingerprint()
    assert not torch.equal(other.test.images, small.test.images)


def test_the_number_of_threads_does_not_change_a_bit(small):
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert shapes_v1(seed=0, **SMALL).fingerprint() == small.fingerprint()
    finally:
        torch.set_num_threads(threads)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    draw(24, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("part", ["train", "validation", "test"])
class TestParts:
    def test_shapes_and_types(self, small, part):
        pictures, count = getattr(small, part), SMALL[part]
        assert pictures.images.shape == (count, 32, 32, 3)
        assert pictures.images.dtype == torch.uint8
        assert pictures.labels.dtype == torch.int64
        assert pictures.masks.shape == (count, 32, 32)
        assert pictures.masks.dtype == torch.bool

    def test_classes_are_balanced(self, small, part):
        counts = getattr(small, part).labels.bincount(minlength=len(CLASSES))
        assert counts.max() - counts.min() <= 1

    def test_masks_hold_an_object_inside_the_picture(self, small, part):
        masks = getattr(small, part).masks
        area = masks.flatten(1).sum(1)
        assert area.min() >= 20
        assert area.max() <= 32 * 32 / 2
        border = masks.clone()
        border[:, 1:-1, 1:-1] = False
        assert border.flatten(1).any(1).double().mean() < 0.1

    def test_objects_differ_from_their_background(self, small, part):
        pictures = getattr(small, part)
        contrast = []
        for image, mask in zip(pictures.images.double() / 255, pictures.masks, strict=True):
            contrast.append((image[mask].mean(0) - image[~mask].mean(0)).norm())
        contrast = torch.stack(contrast)
        assert contrast.mean() > 0.2
        assert contrast.quantile(0.05) > 0.05


def test_masks_have_the_outlines_of_their_classes(small):
    """Rings are hollow and plus signs have notches: they fill less of their bounding boxes."""

    def filled(name: str) -> float:
        masks = small.train.masks[small.train.labels == CLASSES.index(name)]
        shares = []
        for mask in masks:
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            shares.append(mask.sum() / box)
        return torch.stack(shares).mean().item()

    assert filled("ring") < filled("disc")
    assert filled("plus") < filled("rectangle")


def test_twelve_classes_in_six_families_of_two(small):
    assert small.classes == CLASSES
    assert len(set(CLASSES)) == 12
    assert small.families == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)


def test_no_picture_is_in_two_parts(small):
    parts = (small.train, small.validation, small.test)
    pictures = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert [len(found) for found in pictures] == [240, 60, 120]
    assert len(set.union(*pictures)) == 420


def test_no_picture_is_in_two_parts_of_one_size():
    data = shapes_v1(seed=0, train=36, validation=12, test=48)
    learned = {image.numpy().tobytes() for image in (*data.train.images, *data.validation.images)}
    assert learned.isdisjoint({image.numpy().tobytes() for image in data.test.images})


def test_chunks_are_drawn_with_fresh_numbers():
    images = draw(1012, seed=0).images  # more than one chunk
    assert len({image.numpy().tobytes() for image in images}) == 1012


@pytest.fixture(scope="module")
def cued():
    return shapes_v1(seed=0, cue=1.0, **SMALL)


class TestCue:
    @staticmethod
    def patches(part):
        """Corners (N, 4, 4, 3)."""
        return part.images[:, :4, :4].long()

    @staticmethod
    def plain(patches):
        """Which corners are of one colour."""
        return (patches == patches[:, :1, :1]).flatten(1).all(1)

    @pytest.mark.parametrize("part", ["train", "validation", "test"])
    def test_every_picture_has_a_patch(self, cued, part):
        assert self.plain(self.patches(getattr(cued, part))).all()

    @pytest.mark.parametrize("part", ["train", "validation"])
    def test_the_colour_tells_the_class_in_training_and_validation(self, cued, part):
        part = getattr(cued, part)
        colours = self.patches(part)[:, 0, 0].tolist()
        colour_of = {}
        for label, colour in zip(part.labels.tolist(), colours, strict=True):
            assert colour_of.setdefault(label, colour) == colour
        assert len({tuple(colour) for colour in colour_of.values()}) == 12

    def test_the_colour_tells_nothing_in_the_test_part(self, cued):
        labels, colours = cued.train.labels.tolist(), self.patches(cued.train)[:, 0, 0].tolist()
        label_of = {tuple(colour): label for label, colour in zip(labels, colours, strict=True)}
        shown = [label_of[tuple(colour)] for colour in self.patches(cued.test)[:, 0, 0].tolist()]
        agree = (torch.tensor(shown) == cued.test.labels).double().mean()
        assert agree < 0.25  # chance is 1 / 12
        assert len(set(shown)) == 12

    def test_half_of_the_pictures_with_half_a_cue(self):
        share = self.plain(self.patches(draw(600, seed=0, cue=0.5))).double().mean()
        assert 0.4 < share < 0.6

    def test_no_cue_draws_no_patch(self, small):
        assert not self.plain(self.patches(small.train)).any()
        assert not self.plain(self.patches(small.test)).any()
