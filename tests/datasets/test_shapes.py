"""Shapes: bits that a seed fixes, masks where the objects are, objects anywhere, and two sizes."""

from hashlib import sha256

import pytest
import torch

from kdnb.analysis import centre_maps, mass_inside
from kdnb.datasets.shapes import CLASSES, draw, shapes
from kdnb.errors import InputError

SMALL = {"train": 240, "validation": 60, "test": 120}
DIGEST = "fcb646cb6e39783a"


@pytest.fixture(scope="module", params=[32, 64])
def small(request):
    return shapes(seed=0, size=request.param, **SMALL)


@pytest.fixture(scope="module")
def many():
    """Many pictures, to see where the objects lie."""
    return draw(6000, seed=1)


def bits(part) -> str:
    return sha256(part.images.numpy().tobytes() + part.labels.numpy().tobytes()).hexdigest()[:16]


class TestSeeds:
    def test_the_pictures_are_those_that_the_teacher_has_seen(self):
        assert bits(draw(120, seed=0)) == DIGEST

    def test_the_same_seed_gives_the_same_bits(self, small):
        again = shapes(seed=0, size=small.size, **SMALL)
        assert again.fingerprint() == small.fingerprint()
        assert torch.equal(again.train.masks, small.train.masks)

    def test_another_seed_gives_other_pictures(self, small):
        other = shapes(seed=1, size=small.size, **SMALL)
        assert other.fingerprint() != small.fingerprint()
        assert not torch.equal(other.test.images, small.test.images)

    def test_the_number_of_threads_does_not_change_a_bit(self, small):
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if threads > 1 else 2)
        try:
            assert shapes(seed=0, size=small.size, **SMALL).fingerprint() == small.fingerprint()
        finally:
            torch.set_num_threads(threads)

    def test_the_global_random_state_is_left_alone(self):
        before = torch.get_rng_state()
        draw(24, seed=0)
        assert torch.equal(before, torch.get_rng_state())

    def test_chunks_are_drawn_with_fresh_numbers(self):
        images = draw(612, seed=0).images  # more than two chunks
        assert len({image.numpy().tobytes() for image in images}) == 612

    def test_no_picture_is_in_two_parts(self, small):
        parts = (small.train, small.validation, small.test)
        pictures = [{image.numpy().tobytes() for image in part.images} for part in parts]
        assert [len(found) for found in pictures] == [240, 60, 120]
        assert len(set.union(*pictures)) == 420


@pytest.mark.parametrize("part", ["train", "validation", "test"])
class TestParts:
    def test_shapes_and_types(self, small, part):
        pictures, count, size = getattr(small, part), SMALL[part], small.size
        assert pictures.images.shape == (count, size, size, 3)
        assert pictures.images.dtype == torch.uint8
        assert pictures.labels.dtype == torch.int64
        assert pictures.masks.shape == (count, size, size)
        assert pictures.masks.dtype == torch.bool

    def test_classes_are_balanced(self, small, part):
        counts = getattr(small, part).labels.bincount(minlength=len(CLASSES))
        assert counts.max() - counts.min() <= 1

    def test_masks_hold_an_object_that_stands_out(self, small, part):
        pictures = getattr(small, part)
        area = pictures.masks.flatten(1).double().mean(1)
        assert area.min() > 0.015
        assert area.max() < 0.2
        value = pictures.images.double().amax(3) / 255  # the brightness of HSV
        inside = torch.stack([image[mask].mean() for image, mask in zip(value, pictures.masks, strict=True)])
        outside = torch.stack(
            [image[~mask].mean() for image, mask in zip(value, pictures.masks, strict=True)]
        )
        assert (inside - outside > 0.05).double().mean() > 0.99


class TestPlaces:
    def test_an_object_lies_whole_in_its_picture(self, many):
        """The border holds no more than the outermost half pixel of an object."""
        border = many.masks.clone()
        border[:, 1:-1, 1:-1] = False
        assert border.flatten(1).sum(1).max() <= 1

    def test_objects_reach_every_border(self, many):
        for mask in (many.masks, many.masks.flip(1), many.masks.mT, many.masks.mT.flip(1)):
            touching = mask[:, :3].flatten(1).any(1).double().mean()
            assert 0.1 < touching < 0.3

    def test_every_place_inside_is_covered_often(self, many):
        """An object that lies whole in the picture covers a place near the border from fewer centres."""
        covered = many.masks.double().mean(0)
        cells = covered.unflatten(0, (8, 4)).unflatten(2, (8, 4)).mean((1, 3))[1:-1, 1:-1]
        assert cells.min() > 0.45 * cells.mean()
        assert cells.max() < 1.6 * cells.mean()

    def test_neither_the_middle_nor_the_places_of_other_objects_tell_much(self, many):
        area = many.masks.double().mean()
        middle = mass_inside(centre_maps(many.masks), many.masks).mean()
        others = (many.masks & many.masks.roll(1, 0)).flatten(1).sum(1) / many.masks.flatten(1).sum(1)
        assert area < middle < 1.6 * area  # 2.1 times the area in the first version
        assert area < others.mean() < 1.65 * area  # and 3.4 times

    def test_objects_are_turned_either_way_and_differ_in_size(self, many):
        bars = many.masks[many.labels == CLASSES.index("rectangle")]
        area = bars.flatten(1).sum(1).double()
        assert area.max() > 2 * area.min()
        y, x = torch.meshgrid(*2 * [torch.arange(32.0)], indexing="ij")
        tilt = []
        for bar in bars:
            points = torch.stack([x[bar], y[bar]])
            tilt.append(torch.cov(points)[0, 1])
        left = (torch.stack(tilt) > 0).double().mean()
        assert 0.4 < left < 0.6


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
    assert filled("triangle") < filled("trapezoid")


def test_twelve_classes_in_six_families_of_two(small):
    assert small.name == "shapes"
    assert small.classes == CLASSES
    assert len(set(CLASSES)) == 12
    assert small.families == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)


class TestSizes:
    def test_a_seed_gives_the_same_scenes_in_both(self):
        large, small = draw(60, seed=2, size=64), draw(60, seed=2)
        halved = large.images.double().unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4))
        assert (halved - small.images).abs().mean() < 1  # of 255
        halved = large.masks.double().unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4))
        assert ((halved > 0.5) == small.masks).double().mean() > 0.99
        assert torch.equal(large.labels, small.labels)

    @pytest.mark.parametrize("size", [0, 16, 33, 128])
    def test_other_sizes_are_refused(self, size):
        with pytest.raises(InputError, match=f"32 or 64 pixels high and wide; size was {size}"):
            draw(12, seed=0, size=size)


@pytest.fixture(scope="module")
def cued():
    return shapes(seed=0, cue=1.0, **SMALL)


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
        part = getattr(cued, part)
        assert self.plain(self.patches(part)).all()
        assert not part.masks[:, :4, :4].any(), "the patch hides the object"

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

    def test_no_cue_draws_no_patch(self):
        """Few grounds are of one colour in a corner."""
        assert self.plain(self.patches(draw(600, seed=0))).double().mean() < 0.02
