"""Does a map point at the object? Scores of maps (B, h, w) against object masks, bool (B, H, W).

Maps are resized bilinearly to the masks and computed in float64. A map that is the same everywhere
points nowhere, and scores chance: its ties count in proportion. Chance is what uniform maps score,
``map_scores(uniform_maps(masks), masks)``; for an object that covers a share s of the picture it is
s, s and s / (2 - s). All raise InputError for shapes that do not agree and for an empty mask.
"""

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.analysis.maps import require_mass
from kdnb.errors import InputError

TIE = 1e-6  # values closer than this share of a map's range count as equal


def mass_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of each map's sum that lies on the object: (B,), 0 to 1. Maps must not be negative."""
    maps, masks = _of_one_size(require_mass(maps), masks)
    total = maps.sum(1)
    return torch.where(total > 0, (maps * masks).sum(1) / total, masks.mean(1))


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether each map's highest pixel lies on the object: (B,), 1 or 0.

    Of several highest pixels, the share that lies on it.
    Source: Zhang et al., Top-down Neural Attention by Excitation Backprop, 2016.
    Differs: no tolerance around the object.
    """
    maps, masks = _of_one_size(maps, masks)
    highest = (maps >= maps.amax(1, keepdim=True) - _tie(maps)).double()
    return (highest * masks).sum(1) / highest.sum(1)


def iou_at_equal_area(maps: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of the object with as many of each map's highest pixels: (B,), 0 to 1.

    Equal areas spare us a threshold. Pixels that tie at the edge share the places left over.
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
    """All three, a row an image; ``.mean()`` sums a network up. Maps must not be negative."""
    scores = {
        "mass inside": mass_inside(maps, masks),
        "pointing game": pointing_game(maps, masks),
        "IoU at equal area": iou_at_equal_area(maps, masks),
    }
    return pd.DataFrame({name: values.numpy() for name, values in scores.items()})


def _of_one_size(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Both flattened, (B, H W) in float64, at the size of the masks."""
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
    """How far apart two values of a map may be and count as equal: rounding must not break ties."""
    span = maps.amax(1, keepdim=True) - maps.amin(1, keepdim=True)
    return TIE * span.clamp(min=maps.abs().amax(1, keepdim=True) * TIE)
