"""Exercises of notebook 05: the diversity target, the targets of self-distillation, and peers."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.exercises import peers
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, tensor_from
from kdnb.methods.ffsd.diversity import SelfDistiller, carried_back, diversity_of


def diversity_target(attention: Tensor, count: int) -> Tensor:
    """Computes the library's diversity target from attention maps.

    Args:
        attention: Attention maps that are not normalised, shape (B, H, W).

        count: Number of positions of each map that count as background.

    Returns:
        The target, shape (B, H, W).
    """
    maps, positions = attention.sqrt()[:, None], attention[0].numel()
    return diversity_of(maps, threshold=(count + 0.5) / positions).target


def shallow_aims(distiller: nn.Module, last: Tensor) -> tuple[Tensor, ...]:
    """Computes the maps that self-distillation asks of the shallow stages.

    Args:
        distiller: FFSD's self-distiller.

        last: The last feature map, shape (B, C, h, w).

    Returns:
        One map for each shallow stage. They carry no graph, and the distiller keeps its mode and statistics.
    """
    return carried_back(distiller, last)


def _probe_target(function) -> list[Tensor]:
    attention = normal(2, 3, 4, 4).abs() * torch.tensor([0.2, 1, 5], dtype=torch.float64)[:, None, None]
    return [tensor_from(function(attention, 5))]


class _FakeNetwork:
    """The attributes of a network that a self-distiller reads."""

    channels, reductions, head = (4, 8, 16), (1, 2, 4), SimpleNamespace(in_features=16)


def _probe_aims(function) -> list[Tensor]:
    """Calls the function on a batch and on its first picture.

    The first picture alone must get the same maps as in the batch, which fails in train mode. The probe also
    returns whether the maps carry a graph, the mode of every module, and the statistics of batch norm.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        distiller = SelfDistiller(_FakeNetwork()).double().train()
    last = normal(6, 3, 16, 2, 2).relu().requires_grad_()
    seen = []
    for shown in (last, last[:1]):
        made = function(distiller, shown)
        seen += [tensor_from(maps) for maps in (made if isinstance(made, tuple | list) else [made])]
    facts = [float(maps.requires_grad) for maps in seen] + [float(m.training) for m in distiller.modules()]
    statistics = [buffer.double() for buffer in distiller.buffers()]
    return [*(maps.detach() for maps in seen), torch.tensor(facts), *statistics]


def _target_variant(
    attention: Tensor, count: int, *, norm: str = "raw", sign: float = 1.0, at: str = "low"
) -> Tensor:
    """Computes the target step by step, with one step done differently."""
    length = attention.flatten(1).norm(dim=1)[:, None, None]
    if norm == "batch":
        length = torch.full_like(length, attention.norm().item())
    start = attention if norm == "none" else attention / length
    whole = torch.ones_like(length) if norm == "unit" else length
    ordered = start.flatten(1).sort(dim=1).values
    level = (ordered[:, count - 1] if at == "low" else ordered[:, -count])[:, None, None]
    return whole / 2 + sign * (whole / 2 - start) * (start - level).sign()


def _aims_with_graph(distiller: nn.Module, last: Tensor) -> tuple[Tensor, ...]:
    modes = distiller.training
    made = distiller.eval()(last)
    distiller.train(modes)
    return made


def _aims_left_in_eval(distiller: nn.Module, last: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return distiller.eval()(last)


def _aims_in_train_mode(distiller: nn.Module, last: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return distiller(last)


EXERCISES = {
    **peers.EXERCISES,
    "diversity_target": Exercise(
        reference=diversity_target,
        probe=_probe_target,
        mutants=(
            Mutant(
                "wrong side",
                lambda attention, count: _target_variant(attention, count, sign=-1.0),
                "the sign is wrong; the background should keep its attention, and the task area should "
                "change.",
            ),
            Mutant(
                "r of the unit map",
                lambda attention, count: _target_variant(attention, count, norm="unit"),
                "your r is 1, the norm of the normalised map; the authors' code takes the norm before "
                "normalising.",
            ),
            Mutant(
                "raw units throughout",
                lambda attention, count: _target_variant(attention, count, norm="none"),
                "you start from the raw attention, which is what our option 'consistent' does; the "
                "published target starts from the normalised map.",
            ),
            Mutant(
                "background counted from the top",
                lambda attention, count: _target_variant(attention, count, at="high"),
                "count says how many of the *lowest* positions are background; you counted from the top.",
            ),
            Mutant(
                "no background",
                lambda attention, count: (
                    attention.flatten(1).norm(dim=1)[:, None, None]
                    - F.normalize(attention.flatten(1)).view_as(attention)
                ),
                "you inverted every position, even in the background; the background should keep its "
                "attention.",
            ),
            Mutant(
                "one norm for the batch",
                lambda attention, count: _target_variant(attention, count, norm="batch"),
                "with one norm for the whole batch, pictures with strong attention set r for all others; "
                "each picture has its own norm.",
            ),
            Mutant(
                "normalised at the end",
                lambda attention, count: F.normalize(diversity_target(attention, count).flatten(1)).view_as(
                    attention
                ),
                "you normalised the target at the end; that is sensible, but the published target is not "
                "normalised.",
            ),
        ),
        advice=(
            "with r the norm of each picture, a = attention / r and level the count-th smallest a, the "
            "target is r / 2 + (r / 2 - a) * sign(a - level)."
        ),
    ),
    "steady_aims": Exercise(
        reference=shallow_aims,
        probe=_probe_aims,
        mutants=(
            Mutant(
                "train mode",
                _aims_in_train_mode,
                "the bug is still in there: in train mode batch norm mixes the pictures of the batch, and "
                "every look changes its running statistics.",
            ),
            Mutant(
                "left in eval mode",
                _aims_left_in_eval,
                "the aims are right, but the distiller stays in eval mode, so its batch norm stops "
                "learning; restore the mode it had.",
            ),
            Mutant(
                "graph kept",
                _aims_with_graph,
                "the aims are right, but they carry a graph, so the student could lower its loss by "
                "changing the distiller; use torch.no_grad().",
            ),
        ),
        advice=(
            "call distiller.eval(), compute the aims as distiller(last) under torch.no_grad(), call "
            "distiller.train(), and return the aims. Or return carried_back(distiller, last)."
        ),
        bug="train mode",
    ),
}

QUESTIONS = {
    "elsewhere": "3754c3825f8c",
    "inert": "0f3d1bb5794c",
    "guessers": "ebaaf70d4e1f",
}
