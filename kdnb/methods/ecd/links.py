"""Two networks of one structure, joined at their convolutions for the length of a pass.

One is watched while it runs, the other is supplied; afterwards nothing is left on either.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from kdnb.errors import InputError
from kdnb.networks import Tapped


class Use(NamedTuple):
    """One convolution in one forward pass."""

    input: Tensor
    output: Tensor  # a copy, with its graph: an in-place layer behind the convolution cannot change it
    origin: GradientEdge | None  # the output itself as a place in the graph; None without a graph


@contextmanager
def watched(net: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Use]]:
    """Records what the convolutions at ``paths`` read and give while the block runs, in the order they
    run. What ``net`` computes is not changed.

    Raises InputError for one that runs a second time, and, at the end of the block, for one that did not.
    """
    seen: dict[str, Use] = {}

    def watch(path: str):
        def hook(module: nn.Module, inputs: tuple, keywords: dict, output: Tensor) -> None:
            if path in seen:
                raise InputError(
                    f"The convolution {path!r} runs twice in one forward pass; ECD links each convolution "
                    "once. Give every use a convolution of its own."
                )
            origin = get_gradient_edge(output) if output.requires_grad else None
            seen[path] = Use(inputs[0] if inputs else keywords["input"], output.clone(), origin)

        return hook

    handles = [net.get_submodule(path).register_forward_hook(watch(path), with_kwargs=True) for path in paths]
    try:
        yield seen
        if missing := [path for path in paths if path not in seen]:
            raise InputError(
                f"The convolution {missing[0]!r} did not run in the forward pass, or not by a call of the "
                "module itself, so it has no output to link. Call it, or leave it out of the network."
            )
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def supplied(
    net: nn.Module, paths: Sequence[str], links: dict[str, Tensor], temperature: float
) -> Iterator[None]:
    """While the block runs, each dynamic convolution at ``paths`` gets its link, where it has one, and
    the temperature of its attention."""

    def supply(path: str):
        def hook(module: nn.Module, inputs: tuple, keywords: dict) -> tuple[tuple, dict]:
            return inputs or (keywords["input"],), {"link": links.get(path), "temperature": temperature}

        return hook

    handles = [
        net.get_submodule(path).register_forward_pre_hook(supply(path), with_kwargs=True) for path in paths
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_of_stages(net: nn.Module, seen: dict[str, Use]) -> list[str]:
    """Of the convolutions that ran, the last one of each stage, by path, from shallow to deep.

    The stages are those that ``net`` names, as ours and a ``Tapped`` do, if a convolution ran in each. In
    any other network a stage ends where the map shrinks for good.
    A shortcut is not a last one: a convolution that reads what another one has read before it.
    """
    main, read = [], set()
    for path, use in seen.items():
        if id(use.input) not in read:
            main.append(path)
        read.add(id(use.input))
    inside = [[path for path in main if f"{path}.".startswith(f"{stage}.")] for stage in _stages(net)]
    if inside and all(inside):
        return [paths[-1] for paths in inside]
    last, largest = [], 0
    for path in reversed(main):
        if (area := seen[path].output[0, 0].numel()) > largest:
            last, largest = [path, *last], area
    return last


def by_stage(net: nn.Module, paths: Sequence[str]) -> dict[str, list[str]]:
    """``paths`` sorted into the stages that ``net`` names: "stem" for what comes before the first of
    them, "stage 1" and so on, "end" for what comes behind. One group, "network", where it names none.
    """
    stages, groups = _stages(net), {}
    if not stages:
        return {"network": list(paths)}
    for path in paths:
        inside = [number for number, stage in enumerate(stages, 1) if f"{path}.".startswith(f"{stage}.")]
        outside = "stem" if groups.keys() <= {"stem"} else "end"
        groups.setdefault(f"stage {inside[0]}" if inside else outside, []).append(path)
    return groups


def _stages(net: nn.Module) -> list[str]:
    if isinstance(net, Tapped):
        return [f"model.{path}" for path in net.stage_paths]
    stages = getattr(net, "stages", None)
    return [f"stages.{i}" for i in range(len(stages))] if isinstance(stages, nn.ModuleList) else []
