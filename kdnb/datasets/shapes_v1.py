"""Shapes as the first edition of the course drew them, for its records and its teacher.

The object is always near the middle. ``kdnb.datasets.shapes`` is the version for everything new.

Every picture is 32 x 32 RGB. It has a textured background, small distractors, and one textured object with
its mask. The outlines form six families of two that look alike: round, box, wedge, star, ring and cross.
A good network confuses the members of a family *for a reason*. A teacher's soft labels can therefore be
compared with similarities that are known beforehand.
"""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from kdnb.datasets.dataset import Dataset, Part, stratified_split
from kdnb.seeds import derived_seed

SIZE = 32
CHUNK = 1000  # how many images are drawn at a time, which takes about 100 MB in float64


# The outlines. u and v, both (N, H, W), are coordinates in which the object fits the unit circle. v points
# down. Each function returns a signed distance in these units, which is negative inside.


def _disc(u: Tensor, v: Tensor) -> Tensor:
    return (u.square() + v.square()).sqrt() - 0.85


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    return 0.65 * ((u.square() + (v / 0.65).square()).sqrt() - 1)


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.75


def _rectangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs() - 0.95, v.abs() - 0.6)


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(v, 0.866 * u.abs() - 0.5 * v) - 0.5


def _trapezoid(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(_triangle(u, v), -v - 0.3)


def _star(u: Tensor, v: Tensor, *, points: int, waist: float) -> Tensor:
    radius, sector = (u.square() + v.square()).sqrt(), 2 * pi / points
    angle = torch.remainder(torch.atan2(u, -v), sector)
    angle = torch.minimum(angle, sector - angle)  # 0 at a tip of the star, half a sector between two tips
    along, across = radius * angle.cos(), radius * angle.sin()
    half = torch.tensor(sector / 2, dtype=u.dtype)
    edge_along, edge_across = waist * half.cos() - 1, waist * half.sin()
    length = (edge_along.square() + edge_across.square()).sqrt()
    return (edge_across * (along - 1) - edge_along * across) / length


def _star5(u: Tensor, v: Tensor) -> Tensor:
    return _star(u, v, points=5, waist=0.5)


def _star6(u: Tensor, v: Tensor) -> Tensor:
    return _star(u, v, points=6, waist=0.58)


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return ((u.square() + v.square()).sqrt() - 0.72).abs() - 0.22


def _horseshoe(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(_ring(u, v), (0.5 - torch.atan2(v, u).abs()) * u.abs())


def _plus(u: Tensor, v: Tensor) -> Tensor:
    upright = torch.maximum(u.abs() - 0.28, v.abs() - 0.92)
    return torch.minimum(upright, torch.maximum(u.abs() - 0.92, v.abs() - 0.28))


def _tee(u: Tensor, v: Tensor) -> Tensor:
    bar = torch.maximum(u.abs() - 0.92, (v + 0.55).abs() - 0.28)
    return torch.minimum(bar, torch.maximum(u.abs() - 0.28, v.abs() - 0.83))


OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
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


def shapes_v1(
    *, seed: int = 0, train: int = 4500, validation: int = 500, test: int = 2000, cue: float = 0.0
) -> Dataset:
    """Draws the data set. The same seed always gives the same bits.

    Args:
        seed: Seed of all pictures and of the split.

        train: Number of training pictures.

        validation: Number of validation pictures.

        test: Number of test pictures.

        cue: Share of pictures with a coloured patch in a corner. In the training and validation parts its
            colour reveals the class. In the test part its colour is random, which exposes a network that has
            learned the cue. With 0 there are no patches.

    Returns:
        The data set, with object masks and the families of the classes.
    """
    drawn = draw(train + validation, seed=derived_seed(seed, "learn"), cue=cue)
    kept, held_out = stratified_split(drawn.labels, train / (train + validation), seed=seed)
    test_part = draw(test, seed=derived_seed(seed, "test"), cue=cue, cue_tells=False)
    families = tuple(index // 2 for index in range(len(CLASSES)))
    parts = {"train": drawn.take(kept), "validation": drawn.take(held_out), "test": test_part}
    return Dataset.of("shapes-v1", CLASSES, **parts, families=families)


def draw(count: int, *, seed: int, cue: float = 0.0, cue_tells: bool = True) -> Part:
    """Draws pictures with their object masks. The classes are as equal in number as possible.

    Args:
        count: Number of pictures.

        seed: Seed of everything that is random in them.

        cue: Share of pictures with a coloured patch in a corner.

        cue_tells: Whether the colour of the patch reveals the class. Otherwise it is random.

    Returns:
        The pictures, their labels and their masks.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % len(CLASSES))[torch.randperm(count, generator=generator)]
    chunks = [_paint(chunk, generator, cue, cue_tells) for chunk in labels.split(CHUNK)]
    images, masks = (torch.cat(group) for group in zip(*chunks, strict=True))
    return Part(images, labels, masks)


def _paint(labels: Tensor, generator: torch.Generator, cue: float, cue_tells: bool) -> tuple[Tensor, Tensor]:
    count = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        draw = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * draw

    axis = torch.arange(SIZE, dtype=torch.float64) + 0.5
    y, x = axis[None, :, None], axis[None, None, :]
    ground = uniform(0.1, 0.6, 3)
    canvas = ground[:, None, None, :] + _texture(uniform, x, y, strength=0.10)
    for _ in range(4):  # distractors, which are small bars and blobs behind the object
        u, v, scale = _placed(x, y, uniform, (1.5, 3.5), (1.0, 31.0), pi)
        coverage = _coverage(torch.maximum(u.abs() - 1, v.abs() - uniform(0.4, 1, 1, 1)), scale)
        canvas = _over(canvas, (ground + uniform(-0.4, 0.4, 3))[:, None, None, :], coverage)
    u, v, scale = _placed(x, y, uniform, (6.5, 11.0), (12.0, 20.0), pi / 7)
    distance = torch.empty(count, SIZE, SIZE, dtype=torch.float64)
    for label, outline in enumerate(OUTLINES.values()):
        members = labels == label
        distance[members] = outline(u[members], v[members])
    coverage = _coverage(distance, scale)
    direction = uniform(0.2, 1, 3)
    direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-6)
    paint = (ground + uniform(0.25, 0.6, 1) * direction)[:, None, None, :]
    canvas = _over(canvas, paint + _texture(uniform, x, y, strength=0.08), coverage)
    canvas = canvas + uniform(-0.06, 0.06, SIZE, SIZE, 3)
    canvas = _corner_patch(canvas, labels, uniform, cue, cue_tells)
    return (canvas.clamp(0, 1) * 255).round().to(torch.uint8), coverage > 0.5


def _texture(uniform: Callable[..., Tensor], x: Tensor, y: Tensor, *, strength: float) -> Tensor:
    """Returns the sum of three coloured gratings of random direction and wavelength, shape (N, H, W, 3)."""
    total = torch.zeros(1, dtype=torch.float64)
    for _ in range(3):
        direction, wavelength = uniform(0, pi, 1, 1), uniform(3, 16, 1, 1)
        phase = (x * direction.cos() + y * direction.sin()) * 2 * pi / wavelength
        wave = (phase + uniform(0, 2 * pi, 1, 1)).sin()
        total = total + wave[..., None] * uniform(-strength, strength, 1, 1, 3)
    return total


def _placed(
    x: Tensor,
    y: Tensor,
    uniform: Callable[..., Tensor],
    scales: tuple[float, float],
    centres: tuple[float, float],
    turn: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns coordinates u, v (N, H, W) of an object at a random place, size and angle, and its size."""
    scale, angle = uniform(*scales, 1, 1), uniform(-turn, turn, 1, 1)
    dx, dy = x - uniform(*centres, 1, 1), y - uniform(*centres, 1, 1)
    u = (angle.cos() * dx + angle.sin() * dy) / scale
    v = (angle.cos() * dy - angle.sin() * dx) / scale
    return u, v, scale


def _coverage(distance: Tensor, scale: Tensor) -> Tensor:
    """Returns which share of each pixel an outline covers, from its signed distance (anti-aliasing)."""
    return (0.5 - distance * scale).clamp(0, 1)


def _over(canvas: Tensor, paint: Tensor, coverage: Tensor) -> Tensor:
    return canvas + (paint - canvas) * coverage[..., None]


def _corner_patch(
    canvas: Tensor, labels: Tensor, uniform: Callable[..., Tensor], cue: float, cue_tells: bool
) -> Tensor:
    patched, chance = uniform(0, 1) < cue, (uniform(0, 1) * len(CLASSES)).long()
    colour_of = labels if cue_tells else chance
    hue = 2 * pi * (colour_of[:, None] / len(CLASSES) + torch.tensor([0, 1 / 3, 2 / 3]))
    canvas[patched, :4, :4] = (0.5 + 0.5 * hue.cos())[patched, None, None, :].double()
    return canvas
