"""Maps of where a network looks: brought to one scale, and the controls they must beat."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.errors import InputError, require_choice
from kdnb.functional import at_least_float32


def normalised(maps: Tensor, how: str = "range") -> Tensor:
    """Every map by itself on a common scale: (B, H, W) -> (B, H, W).

    how: ``"range"`` runs from 0 to 1; ``"mass"`` sums to 1, for maps of 0 or more; ``"unit"`` has
    Euclidean norm 1; ``"none"`` leaves the values. A map without anything to scale (zero, or
    constant under "range") becomes zeros. Raises InputError for negative mass.
    """
    require_choice("normalisation", how, ("range", "mass", "unit", "none"))
    maps = at_least_float32(maps)
    if how == "none":
        return maps
    if how == "range":
        maps = maps - maps.amin((1, 2), keepdim=True)
        return _quotient(maps, maps.amax((1, 2), keepdim=True))
    if how == "unit":
        return _quotient(maps, torch.linalg.vector_norm(maps, dim=(1, 2), keepdim=True))
    return _quotient(maps, require_mass(maps).sum((1, 2), keepdim=True))


def uniform_maps(like: Tensor) -> Tensor:
    """The control that looks everywhere alike: images (B, 3, H, W) or masks (B, H, W) -> (B, H, W)."""
    return torch.ones(len(like), *like.shape[-2:], device=like.device)


def centre_maps(like: Tensor) -> Tensor:
    """The control that looks at the middle: images (B, 3, H, W) or masks (B, H, W) -> (B, H, W).

    A Gaussian whose standard deviation is a quarter of the side. Photographers centre their objects,
    and so do we, so this is a harder control than a uniform map.
    """
    height, width = like.shape[-2:]
    y, x = (torch.linspace(-2, 2, size, device=like.device) for size in (height, width))
    return torch.exp(-(y[:, None].square() + x.square()) / 2).expand(len(like), height, width).clone()


def edge_maps(images: Tensor) -> Tensor:
    """The control that looks at edges and has learned nothing: images (B, C, H, W) -> (B, H, W).

    The length of the Sobel gradient, over all channels. The border is continued, so it is no edge.
    """
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None].to(images)  # (2, 1, 3, 3)
    channels = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]  # (B C, 1, H+2, W+2)
    gradient = F.conv2d(channels, kernels).unflatten(0, images.shape[:2])  # (B, C, 2, H, W)
    return gradient.square().sum((1, 2)).sqrt()


def require_mass(maps: Tensor) -> Tensor:
    """``maps`` themselves; raises InputError where one is negative."""
    if (maps < 0).any():
        raise InputError(
            f"Mass needs maps of 0 or more, found {maps.min().item():.3g}; "
            'scale them first: normalised(maps, "range").'
        )
    return maps


def _quotient(maps: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale > 0, maps / scale, 0)
