"""Scores of maps against masks: known answers, chance, ties, resizing."""

import pytest
import torch
import torch.nn.functional as F

from kdnb.analysis import (
    iou_at_equal_area,
    map_scores,
    mass_inside,
    mass_on_others,
    pointing_game,
    uniform_maps,
)
from kdnb.errors import InputError

SCORES = [mass_inside, pointing_game, iou_at_equal_area]


def random_masks(count: int = 6, size: int = 16) -> torch.Tensor:
    """Random rectangles."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    for mask in masks:
        y, x = torch.randint(0, size - 5, (2,), generator=generator).tolist()
        height, width = torch.randint(2, 6, (2,), generator=generator).tolist()
        mask[y : y + height, x : x + width] = True
    return masks


MASK = torch.tensor([[[True, True, False, False]]])  # (1, 1, 4)


@pytest.mark.parametrize(
    ("values", "mass", "pointing", "iou"),
    [
        ([4.0, 3.0, 2.0, 1.0], 0.7, 1, 1),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 1, 1 / 3),  # the two highest: one of them inside
        ([1.0, 2.0, 4.0, 3.0], 0.3, 0, 0),
        ([0.0, 5.0, 5.0, 0.0], 0.5, 0.5, 1 / 3),  # two highest
        ([9.0, 1.0, 1.0, 1.0], 10 / 12, 1, (4 / 3) / (4 - 4 / 3)),  # three share the second place
        ([0.0, 0.0, 0.0, 0.0], 0.5, 0.5, 1 / 3),  # no map at all: chance
    ],
)
def test_scores_by_hand(values, mass, pointing, iou):
    maps = torch.tensor([[values]])
    assert mass_inside(maps, MASK).item() == pytest.approx(mass)
    assert pointing_game(maps, MASK).item() == pytest.approx(pointing)
    assert iou_at_equal_area(maps, MASK).item() == pytest.approx(iou)


def test_the_mask_itself_scores_1_and_its_opposite_0():
    masks = random_masks()
    for score in SCORES:
        assert score(masks.float(), masks).tolist() == pytest.approx([1] * 6)
        assert score((~masks).float(), masks).tolist() == pytest.approx([0] * 6)


@pytest.mark.parametrize("value", [1.0, 0.1, 0.3, 1e-7, 0.0])
@pytest.mark.parametrize("size", [16, 8, 5, 1, 32])
def test_a_uniform_map_scores_chance_at_every_size(value, size):
    """0.1 and 0.3 are not exact in binary: what resizing rounds must not break ties."""
    masks = random_masks()
    share = masks.double().mean((1, 2))
    maps = torch.full((6, size, size), value)
    torch.testing.assert_close(mass_inside(maps, masks), share)
    torch.testing.assert_close(pointing_game(maps, masks), share)
    torch.testing.assert_close(iou_at_equal_area(maps, masks), share / (2 - share))


def test_pointing_is_chance_on_average_for_random_maps():
    generator = torch.Generator().manual_seed(1)
    masks = random_masks(1).expand(4000, 16, 16)
    found = pointing_game(torch.rand(4000, 16, 16, generator=generator), masks)
    assert set(found.tolist()) == {0.0, 1.0}
    assert found.mean().item() == pytest.approx(masks.double().mean().item(), abs=0.02)


def test_scale_does_not_matter_and_order_is_all_for_two_of_them():
    masks, maps = random_masks(), torch.rand(6, 16, 16, generator=torch.Generator().manual_seed(2))
    for score in SCORES:
        torch.testing.assert_close(score(1e-9 * maps, masks), score(maps, masks), rtol=1e-5, atol=0)
    for score in (pointing_game, iou_at_equal_area):
        torch.testing.assert_close(score(maps.exp(), masks), score(maps, masks))
        torch.testing.assert_close(score(maps - 5, masks), score(maps, masks))


@pytest.mark.parametrize("score", SCORES)
def test_small_maps_are_resized_bilinearly(score):
    masks, maps = random_masks(), torch.rand(6, 4, 4, generator=torch.Generator().manual_seed(3))
    resized = F.interpolate(maps[:, None].double(), (16, 16), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(score(maps, masks), score(resized, masks))


def test_large_maps_are_averaged_so_that_nothing_is_skipped():
    maps = torch.zeros(1, 1, 16)
    maps[..., 0] = 1.0  # bilinear sampling without averaging would miss it
    assert mass_inside(maps, MASK).item() > 0.9


def test_an_object_that_fills_the_picture_cannot_be_missed():
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(5))
    for score in SCORES:
        assert score(maps, masks).tolist() == pytest.approx([1, 1])


def test_mass_on_others_by_hand():
    masks = torch.zeros(3, 1, 3, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 0, 1] = masks[2, 0, :2] = True
    maps = torch.tensor([[[6.0, 3.0, 1.0]], [[0.0, 0.0, 2.0]], [[1.0, 1.0, 2.0]]])
    expected = torch.tensor([(0.3 + 0.9) / 2, 0.0, (0.25 + 0.25) / 2])
    torch.testing.assert_close(mass_on_others(maps, masks, others=2), expected.double())
    first = torch.tensor([0.3, 0.0, 0.25]).double()  # of the image that follows
    torch.testing.assert_close(mass_on_others(maps, masks, others=1), first)


@pytest.mark.parametrize("others", [0, 6])
def test_more_others_than_there_are_are_refused(others):
    with pytest.raises(InputError, match=f"others must be from 1 to 5, .* found {others}"):
        mass_on_others(torch.rand(6, 8, 8), random_masks(), others)


def test_map_scores_has_a_row_an_image():
    masks, maps = random_masks(), torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(4))
    table = map_scores(maps, masks)
    assert list(table.columns) == ["mass inside", "pointing game", "IoU at equal area"]
    for column, score in zip(table, SCORES, strict=True):
        assert table[column].tolist() == score(maps, masks).tolist()
    chance = map_scores(uniform_maps(masks), masks).mean()
    assert chance["mass inside"] == pytest.approx(masks.double().mean().item())


def test_a_map_that_learns_can_be_scored():
    map_scores(torch.rand(6, 8, 8).requires_grad_(), random_masks())


@pytest.mark.parametrize("score", SCORES)
def test_what_cannot_be_scored(score):
    masks, maps = random_masks(), torch.ones(6, 4, 4)
    with pytest.raises(InputError, match="A map an image"):
        score(maps[:5], masks)
    with pytest.raises(InputError, match="A map an image"):
        score(maps[:, None], masks)
    with pytest.raises(InputError, match="Masks are bool"):
        score(maps, masks.float())
    masks[3] = False
    with pytest.raises(InputError, match="Mask number 3 is empty"):
        score(maps, masks)


def test_negative_mass():
    with pytest.raises(InputError, match="0 or more, found -1"):
        mass_inside(torch.full((6, 4, 4), -1.0), random_masks())
