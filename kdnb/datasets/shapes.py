"""Shapes: pictures of twelve outlines, which code draws from a seed.

Every picture has a soft background, thin arcs, small confetti, and one object with its mask. The object lies
anywhere in the picture. A map that always looks at the middle finds one and a half times as much of the
objects as chance does, because a whole object cannot lie across the border.

The outlines form six families of two that look alike: round, box, wedge, star, ring and cross. Some pictures
of the two members are almost equal, such as a horseshoe with a narrow gap and a ring. So a good network
confuses the members of a family *for a reason*. A teacher's soft labels can therefore be compared with
similarities that are known beforehand.

Lengths are in units of which a picture has 32 a side, whatever its number of pixels. So a seed gives the
same scenes in both sizes.
"""

from collections.abc import Callable
from math import cos, pi, sin

import torch
from torch import Tensor

from kdnb.datasets.dataset import Dataset, Part, stratified_split
from kdnb.errors import InputError
from kdnb.seeds import derived_seed

SIZES = (32, 64)  # in pixels
SIDE = 32  # of a picture, in the units of all lengths here
CHUNK = 250  # how many pictures are drawn at a time, which takes about 100 MB in float64 at 64 pixels
OBJECT = (6.0, 9.0)  # radius of the circle around the object
TURN = pi / 6  # the largest angle by which the object is turned, either way
FINER = 2  # every pixel of the object is the mean of FINER x FINER points


# The outlines. u and v, both (N, H, W), are coordinates in which the object fits the unit circle. v points
# down. like, (N, 1, 1) and from 0 to 1, says how far the outline comes to meet the other one of its family.
# Each function returns a signed distance in these units, which is negative inside.


def _disc(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return _oval(u, v, 0.88, 0.88 - 0.2 * like)


def _ellipse(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return _oval(u, v, 0.98, 0.54 + 0.25 * like)


def _oval(u: Tensor, v: Tensor, width: float, height: Tensor) -> Tensor:
    return height * (((u / width).square() + (v / height).square()).sqrt() - 1)


def _square(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return torch.maximum(u.abs() - 0.75, v.abs() - 0.75 + 0.15 * like)


def _rectangle(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return torch.maximum(u.abs() - 0.9, v.abs() - 0.48 - 0.25 * like)


def _triangle(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return _wedge(u, v, 1 - 0.3 * like)


def _trapezoid(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return _wedge(u, v, 0.2 + 0.55 * like)


def _wedge(u: Tensor, v: Tensor, height: Tensor) -> Tensor:
    sides = torch.maximum(v - 0.5, 0.866 * u.abs() - 0.5 * v - 0.5)
    return torch.maximum(sides, -v - height)


def _star(u: Tensor, v: Tensor, points: int, waist: Tensor) -> Tensor:
    radius, sector = (u.square() + v.square()).sqrt(), 2 * pi / points
    angle = torch.remainder(torch.atan2(u, -v), sector)
    angle = torch.minimum(angle, sector - angle)  # 0 at a tip of the star, half a sector between two tips
    along, across = radius * angle.cos(), radius * angle.sin()
    edge_along, edge_across = waist * cos(sector / 2) - 1, waist * sin(sector / 2)
    length = (edge_along.square() + edge_across.square()).sqrt()
    return (edge_across * (along - 1) - edge_along * across) / length


def _star5(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return _star(u, v, 5, 0.42 + 0.1 * like)


def _star6(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return _star(u, v, 6, 0.55 - 0.1 * like)


def _ring(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    return ((u.square() + v.square()).sqrt() - 0.7).abs() - 0.24 + 0.05 * like


def _horseshoe(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    gap = torch.maximum(v.abs() - 0.45 + 0.42 * like, -u)  # half a bar from the middle to the right
    return torch.maximum(_ring(u, v, like), -gap)


def _plus(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    bar = torch.maximum(u.abs() - 0.9, (v + 0.45 * like).abs() - 0.28)
    return torch.minimum(bar, torch.maximum(u.abs() - 0.28, v.abs() - 0.9))


def _tee(u: Tensor, v: Tensor, like: Tensor) -> Tensor:
    bar = torch.maximum(u.abs() - 0.78, (v + 0.54 - 0.05 * like).abs() - 0.28)
    return torch.minimum(bar, torch.maximum(u.abs() - 0.28, (v - 0.04).abs() - 0.86))


OUTLINES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "disc": _disc,
    "ellipse": _ellipse,
    "square": _square,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "trapezoid": _trapezoid,
    "star5": _star5,
    "star6": _star6,
    "ring": _ring,
    "horseshoe": _horseshoe,
    "plus": _plus,
    "tee": _tee,
}
CLASSES = tuple(OUTLINES)


def shapes(
    *,
    seed: int = 0,
    size: int = 32,
    train: int = 4500,
    validation: int = 500,
    test: int = 2000,
    cue: float = 0.0,
) -> Dataset:
    """Draws the data set. The same seed always gives the same bits.

    Args:
        seed: Seed of all pictures and of the split.

        size: Height and width in pixels, 32 or 64. A seed gives the same scenes in both sizes.

        train: Number of training pictures.

        validation: Number of validation pictures.

        test: Number of test pictures.

        cue: Share of pictures with a coloured patch in a corner. In the training and validation parts its
            colour reveals the class. In the test part its colour is random, which exposes a network that has
            learned the cue. With 0 there are no patches.

    Returns:
        The data set, with object masks and the families of the classes.

    Raises:
        InputError: If ``size`` is neither 32 nor 64.
    """
    drawn = draw(train + validation, seed=derived_seed(seed, "learn"), size=size, cue=cue)
    kept, held_out = stratified_split(drawn.labels, train / (train + validation), seed=seed)
    test_part = draw(test, seed=derived_seed(seed, "test"), size=size, cue=cue, cue_tells=False)
    families = tuple(index // 2 for index in range(len(CLASSES)))
    parts = {"train": drawn.take(kept), "validation": drawn.take(held_out), "test": test_part}
    return Dataset.of("shapes", CLASSES, **parts, families=families)


def draw(count: int, *, seed: int, size: int = 32, cue: float = 0.0, cue_tells: bool = True) -> Part:
    """Draws pictures with their object masks. The classes are as equal in number as possible.

    Args:
        count: Number of pictures.

        seed: Seed of everything that is random in them.

        size: Height and width in pixels, 32 or 64.

        cue: Share of pictures with a coloured patch in a corner. Where it covers a part of the object, the
            mask leaves that part out.

        cue_tells: Whether the colour of the patch reveals the class. Otherwise it is random.

    Returns:
        The pictures, their labels and their masks.

    Raises:
        InputError: If ``size`` is neither 32 nor 64.
    """
    if size not in SIZES:
        raise InputError(f"The pictures of shapes are 32 or 64 pixels high and wide; size was {size}.")
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % len(CLASSES))[torch.randperm(count, generator=generator)]
    chunks = [_paint(chunk, generator, size, cue, cue_tells) for chunk in labels.split(CHUNK)]
    images, masks = (torch.cat(group) for group in zip(*chunks, strict=True))
    return Part(images, labels, masks)


def _paint(
    labels: Tensor, generator: torch.Generator, size: int, cue: float, cue_tells: bool
) -> tuple[Tensor, Tensor]:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        draw = torch.rand(len(labels), *shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * draw

    x, y = _grid(size)
    hue, value = uniform(0, 1), uniform(0.25, 0.6)
    ground = _rgb(hue, uniform(0.15, 0.5), value)
    canvas = _shaded(ground, uniform, x, y, strength=0.12)
    canvas = _arcs(canvas, ground, uniform, x, y)
    canvas = _confetti(canvas, ground, uniform, x, y)
    distance = _object(labels, uniform, size)
    paint = _rgb(hue + uniform(0.15, 0.85), uniform(0.45, 0.9), value + uniform(0.2, 0.45))
    paint = _shaded(paint, uniform, x, y, strength=0.1) * _stripes(uniform, x, y)
    shadow = _pooled((1 - distance / 1.6).clamp(0, 1))  # soft, all around the object
    canvas = canvas * (1 - 0.25 * shadow)[..., None]
    coverage = _pooled(_covered(distance, size * FINER))
    canvas = _over(canvas, paint, coverage)
    mask = coverage > 0.5
    _corner_patch(canvas, mask, labels, uniform, cue, cue_tells)
    return (canvas.clamp(0, 1) * 255).round().to(torch.uint8), mask


def _grid(points: int) -> tuple[Tensor, Tensor]:
    """Returns x (1, 1, W) and y (1, H, 1) of the middles of pixels, in units of length."""
    axis = (torch.arange(points, dtype=torch.float64) + 0.5) * SIDE / points
    return axis[None, None, :], axis[None, :, None]


def _object(labels: Tensor, uniform: Callable[..., Tensor], size: int) -> Tensor:
    """Returns the signed distance in units of length at every fine point, shape (N, FINER H, FINER W)."""
    x, y = _grid(size * FINER)
    radius, angle, like = uniform(*OBJECT), uniform(-TURN, TURN), uniform(0, 1, 1, 1)
    place = (1 - uniform(0, pi, 2).cos()) / 2  # 0 to 1, by the arcsine law: see _centres
    distance = torch.empty(len(labels), y.shape[1], x.shape[2], dtype=torch.float64)
    for label, outline in enumerate(OUTLINES.values()):
        members = labels == label
        scale = radius[members, None, None]
        centre = _centres(outline, scale, angle[members], place[members])
        u, v = _turned(x - centre[:, 0], y - centre[:, 1], angle[members, None, None], scale)
        distance[members] = outline(u, v, like[members]) * scale
    return distance


def _centres(
    outline: Callable[[Tensor, Tensor, Tensor], Tensor], scale: Tensor, angle: Tensor, place: Tensor
) -> Tensor:
    """Returns centres (N, 2, 1, 1) of objects that lie whole in the picture.

    Both coordinates of ``place`` (N, 2) are 0 where the object touches the left or upper border, and 1 where
    it touches the right or lower one. A pixel near a border is covered from fewer places than one in the
    middle. Places that follow the arcsine law, and not the uniform one, make up for most of that.
    """
    u, v = torch.meshgrid(*2 * [torch.linspace(-1, 1, 101, dtype=torch.float64)], indexing="xy")
    most = torch.tensor([0, 1], dtype=torch.float64)[:, None, None]
    near = (outline(u[None], v[None], most).abs() <= 0.02).any(0)  # the rims of both extremes
    across, down = _turned(u[near], v[near], -angle[:, None], torch.ones(1, dtype=torch.float64))
    rims = torch.stack([across, down], dim=1)
    low, high = 0.5 - rims.amin(2) * scale[..., 0], SIDE - 0.5 - rims.amax(2) * scale[..., 0]
    return (low + (high - low) * place)[..., None, None]


def _turned(dx: Tensor, dy: Tensor, angle: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Returns coordinates u, v (N, H, W) along an object's own axes, in units of its size."""
    return (angle.cos() * dx + angle.sin() * dy) / scale, (angle.cos() * dy - angle.sin() * dx) / scale


def _shaded(
    paint: Tensor, uniform: Callable[..., Tensor], x: Tensor, y: Tensor, *, strength: float
) -> Tensor:
    """Returns a colour (N, 3) with a gradient and one wide wave of light, shape (N, H, W, 3)."""
    angle, slope = uniform(-pi, pi, 1, 1), uniform(0, 2 * strength / SIDE, 1, 1)
    light = slope * (angle.cos() * (x - SIDE / 2) + angle.sin() * (y - SIDE / 2))
    angle, phase, length = uniform(-pi, pi, 1, 1), uniform(0, 2 * pi, 1, 1), uniform(10, 24, 1, 1)
    wave = (2 * pi / length * (angle.cos() * x + angle.sin() * y) + phase).sin()
    light = light + uniform(0, strength / 2, 1, 1) * wave
    return paint[:, None, None, :] + light[..., None]


def _stripes(uniform: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Returns the brightness of stripes around 1, shape (N, H, W, 1)."""
    angle, phase, length = uniform(-pi, pi, 1, 1), uniform(0, 2 * pi, 1, 1), uniform(2.5, 6, 1, 1)
    wave = (2 * pi / length * (angle.cos() * x + angle.sin() * y) + phase).sin()
    return (1 + uniform(0, 0.25, 1, 1) * wave)[..., None]


def _arcs(canvas: Tensor, ground: Tensor, uniform: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Draws thin pieces of large circles."""
    for _ in range(3):
        centre = uniform(-8, 40, 2, 1, 1)
        radius = ((x - centre[:, 0]).square() + (y - centre[:, 1]).square()).sqrt()
        distance = (radius - uniform(6, 26, 1, 1)).abs() - uniform(0.2, 0.6, 1, 1)
        canvas = _over(canvas, _near(ground, uniform, 0.12), _covered(distance, x.numel()))
    return canvas


def _confetti(canvas: Tensor, ground: Tensor, uniform: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Draws small dots and strokes with round ends."""
    for _ in range(6):
        centre, angle = uniform(0, SIDE, 2, 1, 1), uniform(-pi, pi, 1, 1)
        u, v = _turned(x - centre[:, 0], y - centre[:, 1], angle, torch.ones(1, dtype=torch.float64))
        beyond = (u.abs() - uniform(0, 1.8, 1, 1)).clamp(min=0)
        distance = (beyond.square() + v.square()).sqrt() - uniform(0.5, 1.0, 1, 1)
        canvas = _over(canvas, _near(ground, uniform, 0.25), _covered(distance, x.numel()))
    return canvas


def _near(ground: Tensor, uniform: Callable[..., Tensor], most: float) -> Tensor:
    """Returns a colour that differs from that of the ground by at most ``most``, shape (N, 1, 1, 3)."""
    return (ground + uniform(-most, most, 3)).clamp(0, 1)[:, None, None, :]


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Returns colours (N, 3) from hues of which 1 is a whole turn, saturations and values."""
    thirds = torch.tensor([0, 1 / 3, 2 / 3], dtype=torch.float64)
    pure = 0.5 + 0.5 * (2 * pi * (hue[:, None] - thirds)).cos()
    return value[:, None] * (1 - saturation[:, None] * (1 - pure))


def _covered(distance: Tensor, points: int) -> Tensor:
    """Returns which share of each point an outline covers.

    Args:
        distance: The signed distance of the outline, in units of length.

        points: Number of points along a side of the picture.
    """
    return (0.5 - distance * points / SIDE).clamp(0, 1)


def _pooled(fine: Tensor) -> Tensor:
    """Returns the means (N, H, W) over FINER x FINER points."""
    return fine.unflatten(2, (-1, FINER)).unflatten(1, (-1, FINER)).mean((2, 4))


def _over(canvas: Tensor, paint: Tensor, coverage: Tensor) -> Tensor:
    return canvas + (paint - canvas) * coverage[..., None]


def _corner_patch(
    canvas: Tensor, mask: Tensor, labels: Tensor, uniform: Callable[..., Tensor], cue: float, cue_tells: bool
) -> None:
    patched, chance = uniform(0, 1) < cue, (uniform(0, 1) * len(CLASSES)).long()
    colour_of = labels if cue_tells else chance
    colour = _rgb(colour_of / len(CLASSES), *torch.ones(2, len(labels), dtype=torch.float64))
    side = canvas.shape[1] // 8
    canvas[patched, :side, :side] = colour[patched, None, None, :]
    mask[patched, :side, :side] = False
