"""Exercises of notebook 02: attention maps, how much of a map lies on the object, CKA, and a broken tap."""

import torch
from torch import Tensor, nn

from kdnb.analysis import linear_cka, mass_inside
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, tensor_from
from kdnb.functional import attention_map
from kdnb.taps import tap


def _probe_attention(function) -> list[Tensor]:
    """Returns attention at two powers of maps with both signs, as a layer gives them before its ReLU."""
    maps = normal(0, 2, 3, 4, 5)
    return [tensor_from(function(maps, power)) for power in (2.0, 4.0)]


def _probe_mass(function) -> list[Tensor]:
    maps = normal(1, 3, 4, 5).square() * torch.tensor([1.0, 2.0, 10.0])[:, None, None]
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[0, :2, :2] = masks[1, 1:, 2:] = masks[2, 3, 4] = True
    return [tensor_from(function(maps, masks))]


def _probe_cka(function) -> list[Tensor]:
    """Returns CKA for vectors and for maps, of unequal widths, with means far from 0."""
    vectors, maps = normal(2, 8, 5) + 1, normal(3, 8, 3, 2, 2) - 1
    mixed = torch.cat([vectors, 3 * maps.flatten(1)], 1)
    found = [tensor_from(function(x, mixed)) for x in (vectors, maps, 5 * mixed)]
    return [value.squeeze() for value in found]


def _probe_tap(function) -> list[Tensor]:
    """Returns the map, its gradient in the image, the number of hooks left behind, and the model's mode."""
    convolution = nn.utils.skip_init(nn.Conv2d, 1, 2, 1, bias=False, dtype=torch.float64)
    convolution.weight.data = torch.tensor([1.0, -2.0], dtype=torch.float64)[:, None, None, None]
    model = nn.Sequential(convolution, nn.ReLU(inplace=True))
    images = normal(4, 1, 1, 3, 3).requires_grad_()
    seen = tensor_from(function(model, "0", images))
    gradient = torch.zeros(1, 1, 3, 3)
    if seen.requires_grad:
        (gradient,) = torch.autograd.grad(seen.square().sum(), images)
    left = sum(len(module._forward_hooks) for module in model.modules())
    return [seen.detach(), gradient, torch.tensor([left, model.training])]


def attention_map_at(maps: Tensor, power: float) -> Tensor:
    """Computes ``attention_map`` with the power as a positional argument.

    Args:
        maps: Feature maps, shape (B, C, H, W).

        power: The power of the absolute values.

    Returns:
        Attention maps, shape (B, H, W).
    """
    return attention_map(maps, power=power)


def u_centred(gram: Tensor) -> Tensor:
    """A Gram matrix (N, N) of N images whose rows and columns sum to 0, its diagonal left out.

    Source: Székely and Rizzo, 2014.
    """
    count = len(gram)
    gram = gram - torch.diag(gram.diagonal())
    sums = gram.sum(1) / (count - 2)
    gram = gram - sums[:, None] - sums + sums.sum() / (count - 1)
    return gram - torch.diag(gram.diagonal())


def read_layer(model: nn.Module, path: str, images: Tensor) -> Tensor:
    """Runs a model and returns the output of one of its submodules.

    Args:
        model: The model. Its mode stays as it is.

        path: Path of the submodule, such as ``"layer2"``.

        images: Images, shape (B, 3, H, W).

    Returns:
        The output as it left the submodule, shape (B, C, H', W'), with its graph. Layers that work in place
        cannot change it afterwards.
    """
    with tap(model, path) as seen:
        model(images)
    return seen[path]


def _hooked(keep, *, remove: bool = True):
    """Returns a tap that is made by hand. ``keep`` decides what is stored of the output."""

    def read(model: nn.Module, path: str, images: Tensor) -> Tensor:
        seen = []
        handle = model.get_submodule(path).register_forward_hook(lambda *call: seen.append(keep(call[2])))
        model(images)
        if remove:
            handle.remove()
        return seen[0]

    return read


def _read_in_eval_mode(model: nn.Module, path: str, images: Tensor) -> Tensor:
    model.eval()
    return read_layer(model, path, images)


def _grams(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = x.flatten(1), y.flatten(1)
    return x @ x.T, y @ y.T


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def _centred_with_diagonal(x: Tensor, y: Tensor) -> Tensor:
    a, b = _grams(x.flatten(1) - x.flatten(1).mean(0), y.flatten(1) - y.flatten(1).mean(0))
    return _cosine(a, b)


def _not_divided(x: Tensor, y: Tensor) -> Tensor:
    a, b = _grams(x, y)
    return (u_centred(a) * u_centred(b)).sum()


EXERCISES = {
    "attention_map": Exercise(
        reference=attention_map_at,
        probe=_probe_attention,
        mutants=(
            Mutant(
                "over space",
                lambda maps, power: maps.abs().pow(power).mean((2, 3)),
                "your result says how active each channel is, shape (B, C); a map says where, so average "
                "over the channels, dim=1.",
            ),
            Mutant(
                "sum",
                lambda maps, power: maps.abs().pow(power).sum(1),
                "your result is C times too large; take the mean, so that a layer with more channels is not"
                " brighter for that.",
            ),
            Mutant(
                "no power",
                lambda maps, power: maps.mean(1),
                "positive and negative channels cancel; take |F| ** power before you average.",
            ),
            Mutant(
                "power after the mean",
                lambda maps, power: maps.mean(1).abs().pow(power),
                "the power comes too late, because channels have cancelled by then; take |F| ** power first"
                " and the mean second.",
            ),
            Mutant(
                "over the batch",
                lambda maps, power: maps.abs().pow(power).mean(0),
                "you averaged over dim=0, which is the batch; the channels are dim=1.",
            ),
        ),
        advice="maps.abs().pow(power).mean(1).",
    ),
    "mass_inside": Exercise(
        reference=mass_inside,
        probe=_probe_mass,
        mutants=(
            Mutant(
                "one sum for all",
                lambda maps, masks: (maps * masks).sum((1, 2)) / maps.sum(),
                "each picture has its own share; divide by the sum of its own map, not by the sum over the "
                "batch.",
            ),
            Mutant(
                "mean inside",
                lambda maps, masks: (maps * masks).sum((1, 2)) / masks.sum((1, 2)),
                "that is the map's mean on the object, which grows with the map; divide by the map's sum.",
            ),
            Mutant(
                "not divided",
                lambda maps, masks: (maps * masks).sum((1, 2)),
                "a sum depends on the map's scale; divide by the sum of the whole map.",
            ),
            Mutant(
                "outside",
                lambda maps, masks: (maps * ~masks).sum((1, 2)) / maps.sum((1, 2)),
                "this is the share outside the object.",
            ),
        ),
        advice="(maps * masks).sum((1, 2)) / maps.sum((1, 2)).",
    ),
    "linear_cka": Exercise(
        reference=linear_cka,
        probe=_probe_cka,
        mutants=(
            Mutant(
                "not centred",
                lambda x, y: _cosine(*_grams(x, y)),
                "what all images have in common counts as similarity here; put both Gram matrices through "
                "u_centred.",
            ),
            Mutant(
                "not divided",
                _not_divided,
                "a product of Gram matrices grows with the features; divide by both their norms.",
            ),
            Mutant(
                "diagonal kept",
                _centred_with_diagonal,
                "the matrices are centred, but every image is also compared with itself, which makes "
                "unrelated layers look similar; use u_centred.",
            ),
        ),
        advice=(
            "flatten both inputs, compute gram = x @ x.T and u_centred(gram) of each, then divide the sum "
            "of their products by both norms."
        ),
    ),
    "tap_before_relu": Exercise(
        reference=read_layer,
        probe=_probe_tap,
        mutants=(
            Mutant(
                "not cloned",
                _hooked(lambda output: output),
                "the bug is still in there: a convolution made this map, yet no value is negative. Who "
                "writes into the tensor after you have kept it?",
            ),
            Mutant(
                "detached only",
                _hooked(lambda output: output.detach()),
                "detach gives a second name to the same memory, and loses the gradient; what you need "
                "is a copy.",
            ),
            Mutant(
                "detached copy",
                _hooked(lambda output: output.detach().clone()),
                "the numbers are right now, but no gradient comes through: a method could not learn from "
                "this tap. clone() alone keeps the graph.",
            ),
            Mutant(
                "hook left behind",
                _hooked(lambda output: output.clone(), remove=False),
                "the map is right, but the hook stays in the model and runs at every later pass: remove it.",
            ),
            Mutant(
                "mode changed",
                _read_in_eval_mode,
                "the map is right, but the model came back in eval mode: looking must not change it.",
            ),
        ),
        advice="keep a clone of the output, remove the hook, and leave the model as it was.",
        bug="not cloned",
    ),
}

QUESTIONS = {
    "untrained": "e171490e5bd2",
    "shuffled": "907f526b618a",
    "cue": "9ebc90218a36",
}
