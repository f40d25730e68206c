"""Where the cells of a map look in the picture, and maps that are drawn and scored at these places.

A layer whose window moves by two pixels gives a map of half the size. Figures usually stretch such a map over
the picture, as if each cell looked at its own share of it. The arithmetic of the windows says otherwise: with
convolutions of 3 x 3 and a padding of 1, cell p of a map with steps of 4 pixels is centred at pixel 4 p, but
a stretched map shows it at 4 p + 1.5. And training can give the pixels on one side of a window more weight
than those on the other. So there are two functions: ``map_places`` computes the centres of the windows, and
``effective_places`` measures around which pixel the influence on a cell is centred.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdnb.errors import InputError
from kdnb.functional import attention_map


class Place(NamedTuple):
    """Where the cells of a map lie, the same along both sides of the picture.

    Attributes:
        start: Centre of the first cell's receptive field in pixels. 0 is the middle of the first pixel.

        step: Distance from one cell to the next in pixels.
    """

    start: float
    step: float


def map_places(net: nn.Module, size: int = 32) -> tuple[Place, ...]:
    """Finds out where in the picture the cells of each stage look.

    The function follows the convolutions and poolings of one pass on PyTorch's meta device, so nothing is
    computed and the network stays as it is. Where branches meet whose centres differ, their mean counts.
    Centres near the border are those that the network would have in a larger picture.

    Args:
        net: The network.

        size: Height and width of the pictures in pixels.

    Returns:
        One place for each of the network's maps.

    Raises:
        InputError: If a kernel, a stride or a padding is not the same along both sides, or if a map was
            made by other means than convolutions, poolings and operations on single cells.

    Example:
        >>> from kdnb.networks import build
        >>> map_places(build("resnet8", classes=10))
        (Place(start=0.0, step=1.0), Place(start=0.0, step=2.0), Place(start=0.0, step=4.0))

    Source:
        Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill, 2019.
    """
    on_meta = copy.deepcopy(net).to("meta").eval()
    with torch.inference_mode(False), torch.no_grad(), _Follow():
        images = torch.empty(1, 3, size, size, device="meta")
        images.place = Place(0.0, 1.0)
        maps = on_meta.features(images).maps
    for number, found in enumerate(maps, 1):
        if not hasattr(found, "place"):
            raise InputError(f"Where the cells of map {number} lie cannot be followed back to the picture.")
    return tuple(found.place for found in maps)


def effective_places(net: nn.Module, images: Tensor) -> tuple[Place, ...]:
    """Measures where in the picture the cells of each stage look.

    The influence of a pixel is the absolute gradient, in that pixel, of the attention of the middle cell,
    summed over the images. So an image counts by how active the cell is. The centre of the influence is a
    mean over both sides of the picture. The steps are those of ``map_places``.

    Args:
        net: The network. It stays as it is; the measurement is made in evaluation mode.

        images: Images, (B, 3, H, H). Some dozens are enough.

    Returns:
        One place for each of the network's maps. Where nothing reaches the middle cell, it is the one that
        ``map_places`` computes.

    Raises:
        InputError: As ``map_places``.

    Source:
        Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, 2016.
    """
    size, found = images.shape[-1], []
    with torch.inference_mode(False), torch.enable_grad():
        images = images.clone().requires_grad_()
        maps = copy.deepcopy(net).eval().features(images).maps
        for map, place in zip(maps, map_places(net, size), strict=True):
            middle = map.shape[-1] // 2
            strength = attention_map(map)[:, middle, middle].sum()
            (gradient,) = torch.autograd.grad(strength, images, retain_graph=True)
            influence = gradient.abs().sum((0, 1)).double()
            if influence.any():
                rows_and_columns = (influence.sum(0) + influence.sum(1)) / (2 * influence.sum())
                centre = rows_and_columns @ torch.arange(size).to(influence)
                place = place._replace(start=centre.item() - place.step * middle)
            found.append(place)
    return tuple(found)


def placed(maps: Tensor, place: Place, like: Tensor, *, smooth: bool = True) -> Tensor:
    """Brings maps to the size of the picture, with every cell at the centre of its receptive field.

    Beyond the outermost centres the maps go on with their outermost values.

    Args:
        maps: The maps, (B, h, w).

        place: Where their cells lie, as ``map_places`` tells.

        like: Images (B, 3, H, W) or masks (B, H, W), which give the size.

        smooth: Whether to interpolate linearly between the centres. Otherwise every pixel takes the value of
            the nearest cell, so that a figure shows the map's own numbers only.

    Returns:
        The maps, (B, H, W).

    Example:
        >>> placed(torch.tensor([[[0.0, 4.0]]]), Place(0, 4), torch.zeros(1, 1, 6))
        tensor([[[0., 1., 2., 3., 4., 4.]]])
    """
    down, across = (
        _shares(pixels, cells, place, smooth).to(maps)
        for pixels, cells in zip(like.shape[-2:], maps.shape[-2:], strict=True)
    )
    return down @ maps @ across.T


def _shares(pixels: int, cells: int, place: Place, smooth: bool) -> Tensor:
    """Returns how much of each cell every pixel takes, shape (pixels, cells). Rows sum to 1."""
    at = (torch.arange(pixels, dtype=torch.float64) - place.start) / place.step
    at = at.clamp(0, cells - 1)
    at = at if smooth else (at + 0.5).floor()
    distance = (at[:, None] - torch.arange(cells, dtype=torch.float64)).abs()
    return (1 - distance).clamp(min=0)


class _Follow(TorchDispatchMode):
    """Gives every map a ``place`` that follows from those of the maps it was computed from."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        first = made[0] if isinstance(made, tuple) else made
        if isinstance(first, Tensor) and (place := _place_of(function.overloadpacket, args, first)):
            first.place = place
        return made


def _place_of(operation: torch._ops.OpOverloadPacket, args: Sequence, made: Tensor) -> Place | None:
    """Returns where the cells of a new map lie, or None if that does not follow from its sources."""
    aten = torch.ops.aten
    if operation is aten.convolution:
        _, weights, _, stride, padding, dilation, transposed, *_ = args
        return None if transposed else _moved(args[0], weights.shape[-2:], stride, padding, dilation)
    if operation in (aten.max_pool2d_with_indices, aten.avg_pool2d):
        maps, kernel, *given = args  # arguments that have their default are left out
        stride, padding = (given[0] if given else kernel), (given[1] if len(given) > 1 else 0)
        return _moved(maps, kernel, stride or kernel, padding)
    sources = [x for x in tree_leaves(args) if hasattr(x, "place") and x.shape[-2:] == made.shape[-2:]]
    if not sources:
        return None
    return Place(*(sum(numbers) / len(sources) for numbers in zip(*(x.place for x in sources), strict=True)))


def _moved(
    maps: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: int | Sequence[int], dilation=(1,)
) -> Place | None:
    """Returns where the cells lie after a window has moved over the maps."""
    window = [side if isinstance(side, Sequence) else (side,) for side in (kernel, stride, padding, dilation)]
    if any(len(set(side)) > 1 for side in window):
        raise InputError(f"Places need windows that are alike along both sides, found {window}.")
    if not hasattr(maps, "place"):
        return None
    width, by, around, apart = (side[0] for side in window)
    start, step = maps.place
    return Place(start + step * (apart * (width - 1) / 2 - around), step * by)
