"""Scales maps of where a network looks, and makes control maps that do not depend on a network."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.errors import InputError, require_choice
from kdnb.functional import at_least_float32


def normalised(maps: Tensor, how: str = "range") -> Tensor:
    """Scales every map by itself.

    Args:
        maps: The maps, (B, H, W).

        how: ``"range"`` scales each map from its minimum to its maximum, 0 to 1. ``"mass"`` divides it by
            its sum. ``"unit"`` divides it by its Euclidean norm. ``"none"`` leaves it as it is.

    Returns:
        The scaled maps, (B, H, W). A map that cannot be scaled becomes zeros: one that is zero everywhere,
        or with ``"range"`` one that is constant.

    Raises:
        InputError: If ``how`` is unknown, or if a map has negative values and ``how`` is ``"mass"``.

    Example:
        >>> normalised(torch.tensor([[[1.0, 3.0], [2.0, 5.0]]]))
        tensor([[[0.0000, 0.5000],
                 [0.2500, 1.0000]]])
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
    """Control maps that look everywhere equally.

    Args:
        like: Images (B, 3, H, W) or masks (B, H, W), which give the number and the size of the maps.

    Returns:
        Maps of ones, (B, H, W).
    """
    return torch.ones(len(like), *like.shape[-2:], device=like.device)


def centre_maps(like: Tensor) -> Tensor:
    """Control maps that look at the centre of the image.

    Each map is a Gaussian whose standard deviation is a quarter of the side. Photographers place objects
    near the centre, so this control is harder to beat than a uniform map.

    Args:
        like: Images (B, 3, H, W) or masks (B, H, W), which give the number and the size of the maps.

    Returns:
        The maps, (B, H, W).
    """
    height, width = like.shape[-2:]
    y, x = (torch.linspace(-2, 2, size, device=like.device) for size in (height, width))
    return torch.exp(-(y[:, None].square() + x.square()) / 2).expand(len(like), height, width).clone()


def edge_maps(images: Tensor) -> Tensor:
    """Control maps that look at the edges in the image, without any learning.

    A value is the Euclidean norm of the Sobel gradients of all channels. The image is continued beyond its
    border, so that the border does not count as an edge.

    Args:
        images: The images, (B, C, H, W).

    Returns:
        The maps, (B, H, W).
    """
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None].to(images)  # (2, 1, 3, 3)
    channels = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]  # (B C, 1, H+2, W+2)
    gradient = F.conv2d(channels, kernels).unflatten(0, images.shape[:2])  # (B, C, 2, H, W)
    return gradient.square().sum((1, 2)).sqrt()


def require_mass(maps: Tensor) -> Tensor:
    """Checks that no value of the maps is negative, so that shares of their sum make sense.

    Args:
        maps: The maps, (B, H, W).

    Returns:
        The same maps.

    Raises:
        InputError: If a value is negative.
    """
    if (maps < 0).any():
        raise InputError(
            f"Mass needs maps of 0 or more, found {maps.min().item():.3g}; "
            'scale them first: normalised(maps, "range").'
        )
    return maps


def _quotient(maps: Tensor, scale: Tensor) -> Tensor:
    """The maps divided by their scale, and zeros where the scale is 0."""
    return torch.where(scale > 0, maps / scale, 0)
