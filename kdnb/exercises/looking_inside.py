"""Exercises of notebook 02: attention maps, their share on the object and its control, CKA, a broken tap."""

import torch
from torch import Tensor, nn

from kdnb.analysis import linear_cka, mass_inside, mass_on_others
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, tensor_from
from kdnb.functional import attention_map
from kdnb.taps import tap


def _probe_attention(function) -> list[Tensor]:
    """Returns attention at three powers of maps with both signs, as a layer gives them before its ReLU.

    The power 3 is odd: without absolute values, negative channels would stay negative.
    """
    maps = normal(0, 2, 3, 4, 5).float()
    return [tensor_from(function(maps, power)) for power in (1.0, 2.0, 3.0)]


def _probe_mass(function) -> list[Tensor]:
    maps = normal(1, 3, 4, 5).square() * torch.tensor([1.0, 2.0, 10.0])[:, None, None]
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[0, :2, :2] = masks[1, 1:, 2:] = masks[2, 3, 4] = True
    return [tensor_from(function(maps.float(), masks))]


def _probe_others(function) -> list[Tensor]:
    """Returns the excess for maps of unequal size and objects of unequal area, two of which overlap."""
    maps = normal(5, 4, 4, 5).square() * torch.tensor([1.0, 2.0, 10.0, 0.1])[:, None, None]
    masks = torch.zeros(4, 4, 5, dtype=torch.bool)
    masks[0, :2, :2] = masks[1, 1:, 2:] = masks[2, 3, 4] = masks[3, 1:3, 1:4] = True
    return [tensor_from(function(maps.float(), masks))]


def _probe_cka(function) -> list[Tensor]:
    """Returns CKA for vectors and for maps, of unequal widths, with means far from 0."""
    vectors, maps = (normal(2, 8, 5) + 1).float(), (normal(3, 8, 3, 2, 2) - 1).float()
    mixed = torch.cat([vectors, 3 * maps.flatten(1)], 1)
    found = [tensor_from(function(x, mixed)) for x in (vectors, maps, 5 * mixed)]
    return [value.squeeze() for value in found]


class _WritesInPlace(nn.Module):
    """A convolution whose output a ReLU overwrites: one that is a module, or a call that no module shows."""

    def __init__(self, *, by_module: bool) -> None:
        super().__init__()
        self.convolution = nn.utils.skip_init(nn.Conv2d, 1, 2, 1, bias=False, dtype=torch.float64)
        self.convolution.weight.data = torch.tensor([1.0, -2.0]).double()[:, None, None, None]
        self.relu = nn.ReLU(inplace=True) if by_module else None

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        return maps.relu_() if self.relu is None else self.relu(maps)


def _probe_tap(function) -> list[Tensor]:
    """Returns, for both models, the map, its gradient in the image, and what the function left behind.

    That is the number of hooks, the model's mode, and whether its ReLU still works in place.
    """
    found = []
    for by_module in (True, False):
        model = _WritesInPlace(by_module=by_module)
        images = normal(4, 1, 1, 3, 3).requires_grad_()
        seen = tensor_from(function(model, "convolution", images))
        gradient = torch.zeros(1, 1, 3, 3)
        if seen.requires_grad:
            (gradient,) = torch.autograd.grad(seen.square().sum(), images)
        left = sum(len(module._forward_hooks) for module in model.modules())
        in_place = getattr(model.relu, "inplace", False)
        found += [seen.detach(), gradient, torch.tensor([left, model.training, in_place])]
    return found


def attention_map_at(maps: Tensor, power: float) -> Tensor:
    """Computes ``attention_map`` with the power as a positional argument.

    Args:
        maps: Feature maps, shape (B, C, H, W).

        power: The power of the absolute values.

    Returns:
        Attention maps, shape (B, H, W).
    """
    return attention_map(maps, power=power)


def above_others(maps: Tensor, masks: Tensor) -> Tensor:
    """How much more of each map lies on its own object than on the objects of all other images.

    Args:
        maps: The maps, (B, H, W), without negative values.

        masks: True where the object is, (B, H, W).

    Returns:
        The differences of the two shares, (B,), from -1 to 1.
    """
    return mass_inside(maps, masks) - mass_on_others(maps, masks, others=len(masks) - 1)


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


def _relus_switched(*, back: bool):
    """Returns a tap by hand that keeps the output as it is and switches every ReLU module out of place."""

    def read(model: nn.Module, path: str, images: Tensor) -> Tensor:
        relus = [module for module in model.modules() if isinstance(module, nn.ReLU) and module.inplace]
        for relu in relus:
            relu.inplace = False
        seen = _hooked(lambda output: output)(model, path, images)
        for relu in relus:
            relu.inplace = back
        return seen

    return read


def _shares(maps: Tensor, masks: Tensor) -> Tensor:
    """Returns the share of every map on every mask, shape (maps, masks)."""
    maps = maps.flatten(1)
    return maps / maps.sum(1, keepdim=True) @ masks.flatten(1).to(maps).T


def _grams(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = x.flatten(1), y.flatten(1)
    return x @ x.T, y @ y.T


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def _centred_with_diagonal(x: Tensor, y: Tensor) -> Tensor:
    a, b = _grams(x.flatten(1) - x.flatten(1).mean(0), y.flatten(1) - y.flatten(1).mean(0))
    return _cosine(a, b)


def _no_root(x: Tensor, y: Tensor) -> Tensor:
    a, b = (u_centred(gram) for gram in _grams(x, y))
    return (a * b).sum() / (a.square().sum() * b.square().sum())


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
                "no absolute value",
                lambda maps, power: maps.pow(power).mean(1),
                "an odd power keeps the sign, so that channels of opposite sign cancel; take the absolute "
                "value first.",
            ),
            Mutant(
                "no power",
                lambda maps, power: maps.mean(1),
                "positive and negative channels cancel; take |F| ** power before you average.",
            ),
            Mutant(
                "power forgotten",
                lambda maps, power: maps.abs().mean(1),
                "your result is the same for every power; raise the absolute values to it.",
            ),
            Mutant(
                "always squared",
                lambda maps, power: maps.square().mean(1),
                "your result is that of power 2, whatever power is asked for; use the argument.",
            ),
            Mutant(
                "channel axis kept",
                lambda maps, power: maps.abs().pow(power).mean(1, keepdim=True),
                "the numbers are right, but the shape is (B, 1, H, W); a map has shape (B, H, W), without "
                "an axis for channels.",
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
    "above_others": Exercise(
        reference=above_others,
        probe=_probe_others,
        mutants=(
            Mutant(
                "its own among the others",
                lambda maps, masks: _shares(maps, masks).diagonal() - _shares(maps, masks).mean(1),
                "each picture is among its own controls here; average over the other B - 1 pictures only.",
            ),
            Mutant(
                "one other picture",
                lambda maps, masks: mass_inside(maps, masks) - mass_inside(maps, masks.roll(1, 0)),
                "one other picture is one draw; average over all others.",
            ),
            Mutant(
                "one other picture, the next",
                lambda maps, masks: mass_inside(maps, masks) - mass_inside(maps, masks.roll(-1, 0)),
                "the next picture alone is one draw; average over all others.",
            ),
            Mutant(
                "the others alone",
                lambda maps, masks: mass_on_others(maps, masks, others=len(masks) - 1),
                "that is the share on the objects of other pictures; subtract it from the share on the own "
                "object.",
            ),
            Mutant(
                "sign",
                lambda maps, masks: -above_others(maps, masks),
                "the sign is wrong: a map that finds its own object should be above 0.",
            ),
            Mutant(
                "quotient",
                lambda maps, masks: (
                    mass_inside(maps, masks) / mass_on_others(maps, masks, others=len(masks) - 1)
                ),
                "you divided the two shares; subtract them, so that a map that knows nothing of its picture "
                "has 0.",
            ),
            Mutant(
                "one number",
                lambda maps, masks: above_others(maps, masks).mean(),
                "return one number for each picture, shape (B,); the mean is taken later.",
            ),
        ),
        advice=(
            "for each map, the share on its own object minus the mean share on the objects of all other "
            "pictures; masks.roll(step, 0) pairs every map with another picture's mask."
        ),
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
                "no root",
                _no_root,
                "you divided by squared norms; a.norm() is the root of the sum of squares.",
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
                "ReLUs switched",
                _relus_switched(back=False),
                "you changed every ReLU of the model, and it stays changed; a look must leave it as it was. "
                "What if the writer is no module at all?",
            ),
            Mutant(
                "ReLUs switched and back",
                _relus_switched(back=True),
                "that helps only if the writer is a ReLU module; a call such as maps.relu_() still writes "
                "into what you kept. Keep a copy.",
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
