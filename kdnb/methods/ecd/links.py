"""Two networks of one structure, joined at their convolutions for the length of a pass.

``watched`` records what the convolutions of one network compute. ``supplied`` gives such records to the
convolutions of the other. Both work by hooks, which are removed when the block ends.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from kdnb.errors import InputError
from kdnb.networks import Tapped


class ConvolutionRecord(NamedTuple):
    """One convolution in one forward pass.

    Attributes:
        input: What the convolution read.

        output: A copy of what it returned, with its graph. A later in-place layer cannot change the copy.

        origin: The place of the output itself in the graph, or None if it has no graph.
    """

    input: Tensor
    output: Tensor
    origin: GradientEdge | None


@contextmanager
def watched(net: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, ConvolutionRecord]]:
    """Records what convolutions read and return while the block runs.

    What the network computes is not changed.

    Args:
        net: The network.

        paths: The convolutions, as paths of submodules.

    Yields:
        A dict that is filled during the forward pass: a ``ConvolutionRecord`` by path, in the order in which
        the convolutions run.

    Raises:
        InputError: If a convolution runs a second time, or, at the end of the block, if one has not run.
    """
    seen: dict[str, ConvolutionRecord] = {}

    def watch(path: str):
        def hook(module: nn.Module, inputs: tuple, keywords: dict, output: Tensor) -> None:
            if path in seen:
                raise InputError(
                    f"The convolution {path!r} runs twice in one forward pass; ECD links each convolution "
                    "once. Give every use a convolution of its own."
                )
            origin = get_gradient_edge(output) if output.requires_grad else None
            seen[path] = ConvolutionRecord(inputs[0] if inputs else keywords["input"], output.clone(), origin)

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
    """Gives dynamic convolutions their links and the temperature of their attention while the block runs.

    Args:
        net: The network of dynamic convolutions.

        paths: The convolutions, as paths of submodules.

        links: The tensor (B, C_out, H', W') that a convolution adds to its output, by path. A convolution
            without an entry has no link.

        temperature: Temperature of the softmax over the experts.

    Yields:
        Nothing.
    """

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


def last_of_stages(net: nn.Module, seen: dict[str, ConvolutionRecord]) -> list[str]:
    """The last convolution of each stage, among those that ran.

    The stages are those that the network names, if a convolution ran in each of them; the package's own
    networks and ``Tapped`` name their stages. In any other network a stage ends where the map shrinks for
    good. A shortcut is not counted: it is a convolution that reads what an earlier convolution has read.

    Args:
        net: The network.

        seen: What ``watched`` recorded, in the order in which the convolutions ran.

    Returns:
        Paths from shallow to deep.
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
    """Sorts the paths of convolutions into the stages that a network names.

    Args:
        net: The network.

        paths: Paths in the order in which the convolutions run.

    Returns:
        Paths by group: ``"stem"`` before the first stage, ``"stage 1"`` and so on, ``"end"`` behind the last
        stage. If the network names no stages, there is one group, ``"network"``.
    """
    stages, groups = _stages(net), {}
    if not stages:
        return {"network": list(paths)}
    for path in paths:
        inside = [number for number, stage in enumerate(stages, 1) if f"{path}.".startswith(f"{stage}.")]
        outside = "stem" if groups.keys() <= {"stem"} else "end"
        groups.setdefault(f"stage {inside[0]}" if inside else outside, []).append(path)
    return groups


def residual_blocks(net: nn.Module) -> list[str]:
    """The residual blocks of a network, which add a shortcut to what their convolutions compute.

    Args:
        net: The network.

    Returns:
        Paths of the modules that name a shortcut, as the package's own networks do, or a downsample, as
        torchvision's do.
    """
    return [
        path
        for path, module in net.named_modules()
        if hasattr(module, "shortcut") or hasattr(module, "downsample")
    ]


def _stages(net: nn.Module) -> list[str]:
    if isinstance(net, Tapped):
        return [f"model.{path}" for path in net.stage_paths]
    stages = getattr(net, "stages", None)
    return [f"stages.{i}" for i in range(len(stages))] if isinstance(stages, nn.ModuleList) else []
