"""Maps on one scale, and the controls."""

import pytest
import torch

from kdnb.analysis import centre_maps, edge_maps, normalised, uniform_maps
from kdnb.errors import InputError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


MAPS = torch.tensor([[[1.0, 3.0], [2.0, 2.0]], [[0.0, 0.0], [0.0, 8.0]]])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("range", [[[0, 1], [0.5, 0.5]], [[0, 0], [0, 1]]]),
        ("mass", [[[0.125, 0.375], [0.25, 0.25]], [[0, 0], [0, 1]]]),
        ("none", MAPS.tolist()),
    ],
)
def test_normalised_by_hand(how, expected):
    torch.testing.assert_close(normalised(MAPS, how), torch.tensor(expected, dtype=torch.float32))


def test_unit_maps_have_norm_1_and_keep_their_sign():
    maps = random(5, 4, 4) - 0.5
    found = normalised(maps, "unit")
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(5))
    assert (found.sign() == maps.sign()).all()


@pytest.mark.parametrize("how", ["range", "mass", "unit"])
def test_each_map_by_itself_whatever_its_size(how):
    maps = random(3, 4, 4)
    scaled = maps * torch.tensor([1e-20, 1.0, 1e15])[:, None, None]
    torch.testing.assert_close(normalised(scaled, how), normalised(maps, how))


@pytest.mark.parametrize("how", ["range", "mass", "unit", "none"])
def test_a_map_of_zeros_stays_zeros(how):
    assert torch.equal(normalised(torch.zeros(2, 3, 3), how), torch.zeros(2, 3, 3))


def test_a_constant_map_has_no_range_but_has_mass():
    assert torch.equal(normalised(torch.full((1, 2, 2), 0.3)), torch.zeros(1, 2, 2))
    torch.testing.assert_close(normalised(torch.full((1, 2, 2), 0.3), "mass"), torch.full((1, 2, 2), 0.25))


def test_normalised_needs_a_known_way_and_no_negative_mass():
    with pytest.raises(InputError, match="Did you mean 'range'"):
        normalised(MAPS, "rang")
    with pytest.raises(InputError, match=r"found -0.5"):
        normalised(MAPS - 0.5, "mass")


@pytest.mark.parametrize("shape", [(2, 3, 6, 8), (2, 6, 8)])
def test_uniform_and_centre_maps_fit_images_and_masks(shape):
    like = torch.zeros(shape)
    assert torch.equal(uniform_maps(like), torch.ones(2, 6, 8))
    centre = centre_maps(like)
    assert centre.shape == (2, 6, 8)
    torch.testing.assert_close(centre, centre.flip(1))
    torch.testing.assert_close(centre, centre.flip(2))
    assert (centre[:, 2:4, 3:5] > centre[:, :1, :1]).all()


def test_edge_maps_by_hand():
    """A step of height 1 between columns 2 and 3: the Sobel filter answers 4 on both sides of it."""
    images = torch.zeros(1, 3, 5, 6)
    images[:, 1, :, 3:] = 1.0
    expected = torch.zeros(1, 5, 6)
    expected[:, :, 2:4] = 4.0
    torch.testing.assert_close(edge_maps(images), expected)
    torch.testing.assert_close(edge_maps(images.transpose(2, 3)), expected.transpose(1, 2))


def test_edge_maps_of_a_flat_image_are_zero_at_its_border_too():
    assert edge_maps(torch.full((2, 3, 5, 5), 0.7)).max() < 1e-6


def test_edge_maps_keep_images_and_channels_apart():
    images = random(4, 3, 6, 6)
    found = edge_maps(images)
    torch.testing.assert_close(found[2:3], edge_maps(images[2:3]))
    alone = sum(edge_maps(images[:, c : c + 1]).square() for c in range(3))
    torch.testing.assert_close(found.square(), alone)
