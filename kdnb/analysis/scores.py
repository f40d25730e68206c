"""Scores of how well a map points at the object in an image, given the mask of the object.

Maps are resized bilinearly to the size of the masks, and all scores are computed in float64. Pixels with
equal values count in proportion, so that a map that is the same everywhere scores exactly what chance
gives. Chance is the score of uniform maps, ``map_scores(uniform_maps(masks), masks)``. For an object that
covers a share s of the image it is s for the mass inside, s for the pointing game, and s / (2 - s) for the
IoU at equal area.

All functions take the maps (B, h, w) and boolean masks (B, H, W). They raise InputError if the shapes do
not fit or if a mask is empty.
"""

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.analysis.maps import require_mass
from kdnb.errors import InputError

TIE = 1e-6  # two values count as equal if they differ by less than this share of the range of the map


def mass_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each map's sum that lies on the object.

    Args:
        maps: The maps, (B, h, w), without negative values.

        masks: True where the object is, (B, H, W).

    Returns:
        The shares, (B,), from 0 to 1. A map that is zero everywhere scores chance.

    Raises:
        InputError: If a map has negative values, if the shapes do not fit, or if a mask is empty.

    Example:
        >>> maps = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]])
        >>> mass_inside(maps, masks=torch.tensor([[[True, False], [False, False]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    maps, masks = _of_one_size(require_mass(maps), masks)
    total = maps.sum(1)
    return torch.where(total > 0, (maps * masks).sum(1) / total, masks.mean(1))


def mass_on_others(maps: Tensor, masks: Tensor, others: int = 10) -> Tensor:
    """The share of each map's sum that lies on the objects of other images.

    A map that always looks at the same places finds a part of every object. What a map knows of *its*
    image is the mass inside its own object above this share.

    Args:
        maps: The maps, (B, h, w), without negative values.

        masks: True where the object is, (B, H, W).

        others: How many other images each map is compared with: those that follow in the batch, which is
            read as a circle.

    Returns:
        The mean shares, (B,), from 0 to 1.

    Raises:
        InputError: As ``mass_inside``, and if there are fewer than ``others`` other images.

    Example:
        >>> masks = torch.eye(3, dtype=torch.bool)[:, None]
        >>> mass_on_others(masks.double(), masks, others=2)
        tensor([0., 0., 0.], dtype=torch.float64)
    """
    if not 1 <= others < len(masks):
        raise InputError(
            f"others must be from 1 to {len(masks) - 1}, one less than there are images, found {others}."
        )
    shares = [mass_inside(maps, masks.roll(-step, 0)) for step in range(1, others + 1)]
    return torch.stack(shares).mean(0)


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the highest pixel of each map lies on the object.

    Args:
        maps: The maps, (B, h, w).

        masks: True where the object is, (B, H, W).

    Returns:
        1 or 0 for each map, (B,). If several pixels are highest, the share of them that lies on the object.

    Raises:
        InputError: If the shapes do not fit or a mask is empty.

    Source:
        Zhang et al., Top-down Neural Attention by Excitation Backprop, 2016.

    Differs:
        Pixels near the object do not count as hits.
    """
    maps, masks = _of_one_size(maps, masks)
    highest = (maps >= maps.amax(1, keepdim=True) - _tie(maps)).double()
    return (highest * masks).sum(1) / highest.sum(1)


def iou_at_equal_area(maps: Tensor, masks: Tensor) -> Tensor:
    """The intersection over union of the object and the highest pixels of the map.

    As many pixels are taken as the object has, so that no threshold has to be chosen. If more pixels tie
    for the last places than there are places, each of them counts with an equal share.

    Args:
        maps: The maps, (B, h, w).

        masks: True where the object is, (B, H, W).

    Returns:
        The scores, (B,), from 0 to 1.

    Raises:
        InputError: If the shapes do not fit or a mask is empty.
    """
    maps, masks = _of_one_size(maps, masks)
    area = masks.sum(1, keepdim=True)  # (B, 1)
    threshold = maps.sort(1, descending=True).values.gather(1, area.long() - 1)
    above = (maps > threshold + _tie(maps)).double()
    tied = ((maps - threshold).abs() <= _tie(maps)).double()
    chosen = above + tied * (area - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
    common = (chosen * masks).sum(1)
    return common / (2 * area[:, 0] - common)


def map_scores(maps: Tensor, masks: Tensor) -> pd.DataFrame:
    """All three scores of every map.

    Args:
        maps: The maps, (B, h, w), without negative values.

        masks: True where the object is, (B, H, W).

    Returns:
        A table with a row for each image and a column for each score. Its ``mean()`` describes a network.

    Raises:
        InputError: If a map has negative values, if the shapes do not fit, or if a mask is empty.
    """
    scores = {
        "mass inside": mass_inside(maps, masks),
        "pointing game": pointing_game(maps, masks),
        "IoU at equal area": iou_at_equal_area(maps, masks),
    }
    return pd.DataFrame({name: values.numpy() for name, values in scores.items()})


def _of_one_size(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and masks at the size of the masks, each flattened to (B, H W) in float64."""
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise InputError(
            "A map an image, and a mask an image: expected maps (B, h, w) and masks (B, H, W), found "
            f"{tuple(maps.shape)} and {tuple(masks.shape)}."
        )
    if masks.dtype != torch.bool:
        raise InputError(f"Masks are bool, found {masks.dtype}; say where the object is: masks > 0.")
    if not (covered := masks.flatten(1).any(1)).all():
        raise InputError(f"Mask number {covered.int().argmin().item()} is empty: there is no object to find.")
    maps, masks = maps.detach().cpu().double(), masks.cpu()
    if maps.shape != masks.shape:
        maps = F.interpolate(maps[:, None], masks.shape[-2:], mode="bilinear", antialias=True)[:, 0]
    return maps.flatten(1), masks.to(maps).flatten(1)


def _tie(maps: Tensor) -> Tensor:
    """How much two values of a map may differ and still count as equal, so that rounding breaks no tie."""
    span = maps.amax(1, keepdim=True) - maps.amin(1, keepdim=True)
    return TIE * span.clamp(min=maps.abs().amax(1, keepdim=True) * TIE)
