"""One residual network that can be run at several depths, with one set of convolutions.

Source:
    Zhao et al., Embedded Knowledge Distillation in Depth-level Dynamic Neural Network, 2021, abstract: one
    network contains sub-nets of different depth, the depth is chosen at run time, and the weights are
    shared. See kdnb/methods/README.md, section DDNN + EKD.

Differs:
    The full text of the paper was not at hand. Which blocks a sub-net has, and how batch norm is treated,
    are choices of this project.
"""

import copy
from collections.abc import Iterator, Sequence
from operator import index
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdnb.errors import InputError, require_choice
from kdnb.networks.cost import cost, forward_times
from kdnb.networks.features import Features, Network
from kdnb.networks.resnet import ResidualNetwork
from kdnb.networks.shared_pass import features_of_all

BATCH_NORM = ("private", "shared")


class DepthCost(NamedTuple):
    """What one depth costs.

    Attributes:
        parameters: The number of parameters.

        macs: Multiply-accumulate operations of the convolutions and linear layers for one image.

        milliseconds: The time of one forward pass, measured on this machine during the call.
    """

    parameters: int
    macs: int
    milliseconds: float


class DepthNet(Network):
    """A residual network together with shallower sub-nets that share its weights.

    A sub-net consists of the stem, the first blocks of every stage, and the head of the full net. The
    sub-nets are ordinary networks that are built once, from the modules of the full net. There is no
    current depth that could be switched, so several threads may run different depths at the same time. In
    training, as for any network, only one thread at a time may update the statistics of batch norm.

    Calling the module runs the full net. ``state_dict`` holds every tensor once, under the name that
    ``named_parameters`` gives it. ``load_state_dict`` raises InputError for the weights of other depths or
    of the other kind of batch norm.

    Args:
        full: The deepest network, a ResNet of kdnb. Its modules are used, not copied.

        depths: The sub-nets, from deep to shallow. Each is either a number of layers, which stands for the
            network of that depth in the family of ``full``, or the number of blocks in every stage, such as
            ``(3, 3, 2)``, which can also name a network without a name of its own.

        batch_norm: ``"private"`` or ``"shared"``. With ``"shared"`` all depths use the same batch norms.
            With ``"private"`` a sub-net has batch norms of its own, which start as copies, in every stage
            after the first one that it leaves early. Up to there it sees the same maps as the next deeper
            net, so that batch norms of its own would hold the same statistics.

    Raises:
        InputError: If ``full`` is not a ResNet of kdnb, or if a sub-net is not contained in the net before
            it, or is equal to it.

    Example:
        >>> from kdnb.networks import build
        >>> net = DepthNet(build("resnet20", classes=10), (14, 8))
        >>> net.depths
        (20, 14, 8)
        >>> net.at_depth(14)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, full: Network, depths: Sequence[int | Sequence[int]], *, batch_norm: str = "private"
    ) -> None:
        super().__init__()
        if not isinstance(full, ResidualNetwork):
            raise InputError(
                f"Depth is switched in kdnb's ResNets, found a {type(full).__name__}. Choose one, such "
                "as resnet20 or resnet34."
            )
        require_choice("batch_norm", batch_norm, BATCH_NORM)
        blocks = _checked_blocks(full, depths)
        self.full = full
        subnets, above = [], full
        for counts in blocks[1:]:
            above = _subnet(above, counts, batch_norm)
            subnets.append(above)
        self.subnets = nn.ModuleDict({str(net.depth): net for net in subnets})
        self.channels, self.reductions, self.classes = full.channels, full.reductions, full.classes
        self.register_buffer("blocks", torch.tensor(blocks))  # (depths, stages); saved with the weights
        self.register_state_dict_post_hook(_drop_repeated_tensors)
        self.register_load_state_dict_pre_hook(_check_and_repeat_tensors)

    @property
    def head(self) -> nn.Linear:
        """The linear layer that all depths share."""
        return self.full.head

    @property
    def depths(self) -> tuple[int, ...]:
        """The number of layers of the full net and of every sub-net, deepest first."""
        return (self.full.depth, *map(int, self.subnets))

    def at_depth(self, depth: int) -> ResidualNetwork:
        """The network with ``depth`` layers. It shares its weights with this network.

        Args:
            depth: A number of layers, one of ``depths``.

        Returns:
            A network that can be run and trained like any other.

        Raises:
            InputError: If ``depth`` is not one of ``depths``.
        """
        if depth not in self.depths:
            raise InputError(f"There is no depth {depth}; there are {', '.join(map(str, self.depths))}.")
        return self.full if depth == self.full.depth else self.subnets[str(depth)]

    def export(self, depth: int) -> ResidualNetwork:
        """A copy of the network with ``depth`` layers, independent of this network.

        Args:
            depth: A number of layers, one of ``depths``.

        Returns:
            A plain network whose weights are equal bit for bit. If the family has a network of that depth,
            such as ``build("resnet14", ...)``, the ``state_dict`` can be loaded there.

        Raises:
            InputError: If ``depth`` is not one of ``depths``.
        """
        return copy.deepcopy(self.at_depth(depth))

    def features(self, images: Tensor) -> Features:
        return self.full.features(images)

    def features_at_all(self, images: Tensor) -> dict[int, Features]:
        """The features of every depth, computed in one pass.

        Depths begin with the same modules, and what these compute is computed once. Compared with one pass
        after another, deepest first:

        - Outputs are equal bit for bit, in training and in eval mode.
        - In eval mode nothing else changes. In training the running statistics agree to 4 units in the last
          place (5e-7 of the largest value in float32), because several equal updates of a batch norm are
          done in one.
        - Gradients are sums of the same terms in another order. The difference, as a share of the norm of
          the whole gradient, is about 2e-7 in float32 and 1e-3 under bf16 autocast.

        These numbers were measured on a CPU with contiguous and with channels-last memory.

        Args:
            images: The images, (B, 3, H, W).

        Returns:
            The features by number of layers, deepest first.
        """
        nets = [self.at_depth(depth) for depth in self.depths]
        return dict(zip(self.depths, features_of_all(nets, images), strict=True))

    def costs(self, *, size: int = 32, batch: int = 1) -> dict[int, DepthCost]:
        """What each depth costs.

        Args:
            size: The height and width of the images in pixels.

            batch: How many images the timed forward pass takes.

        Returns:
            The costs by number of layers, deepest first.
        """
        nets = [self.at_depth(depth) for depth in self.depths]
        times = forward_times(nets, size=size, batch=batch)
        return {
            net.depth: DepthCost(*cost(net, size=size), time) for net, time in zip(nets, times, strict=True)
        }

    def fit_budget(
        self, *, macs: float | None = None, milliseconds: float | None = None, size: int = 32, batch: int = 1
    ) -> int:
        """The largest depth that stays within a budget of operations, of time, or of both.

        Args:
            macs: The most multiply-accumulate operations for one image. None for no such limit.

            milliseconds: The most time for one forward pass of ``batch`` images, measured on this machine
                during the call. None for no such limit.

            size: The height and width of the images in pixels.

            batch: How many images the timed forward pass takes.

        Returns:
            The number of layers.

        Raises:
            InputError: If no budget is given, or if no depth fits. The message then names the cheapest
                depth and what it takes.
        """
        if macs is None and milliseconds is None:
            raise InputError("fit_budget needs a budget: macs=..., milliseconds=..., or both.")
        within = [  # a budget of NaN fits no depth
            depth
            for depth in self.depths
            if macs is None or cost(self.at_depth(depth), size=size).macs <= macs
        ]
        if within and milliseconds is None:
            return within[0]
        for depth in within or self.depths[-1:]:
            time = forward_times([self.at_depth(depth)], size=size, batch=batch)[0]
            if within and time <= milliseconds:
                return depth
        needed = cost(self.at_depth(depth), size=size).macs
        raise InputError(
            f"No depth fits macs={macs}, milliseconds={milliseconds}. The cheapest, {depth}, takes {needed} "
            f"MACs and {time:.3g} milliseconds here: allow for that."
        )


def _checked_blocks(full: ResidualNetwork, depths: Sequence[int | Sequence[int]]) -> list[tuple[int, ...]]:
    """The number of blocks in every stage, of the full net and then of each sub-net."""
    try:
        depths = [tuple(map(index, d)) if isinstance(d, Sequence) else index(d) for d in depths]
    except TypeError:
        raise InputError(
            "depths are whole numbers of layers, such as (14, 8), or blocks of every stage, such as "
            f"((3, 3, 2),); found {depths!r}."
        ) from None
    if not depths:
        raise InputError("A network of several depths needs sub-nets: name at least one depth, such as 8.")
    blocks = [_blocks_per_stage(full)]
    for depth in depths:
        found, above = depth if isinstance(depth, tuple) else full.blocks_at(depth), blocks[-1]
        inside = len(found) == len(above) and all(
            1 <= n <= most for n, most in zip(found, above, strict=True)
        )
        if not inside or found == above:
            raise InputError(
                f"A sub-net with {found} blocks in its stages does not lie inside {above}, the net before "
                f"it. Name depths below {full.depth}, from deep to shallow, each once; every stage keeps a "
                "block. Or choose a deeper network."
            )
        blocks.append(found)
    return blocks


def _blocks_per_stage(net: ResidualNetwork) -> tuple[int, ...]:
    return tuple(len(stage) for stage in net.stages)


def _subnet(above: ResidualNetwork, blocks: tuple[int, ...], batch_norm: str) -> ResidualNetwork:
    """A network with the first ``blocks`` of every stage of ``above``. Shared modules are not copied."""
    alike = len(blocks)
    if batch_norm == "private":
        alike = 1 + [own < n for own, n in zip(blocks, _blocks_per_stage(above), strict=True)].index(True)
    shared = [module for module in above.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    shared += [*above.stem, *(block for stage in above.stages[:alike] for block in stage)]
    subnet = copy.deepcopy(above, {id(module): module for module in shared})
    subnet.stages = nn.ModuleList(stage[:count] for stage, count in zip(subnet.stages, blocks, strict=True))
    return subnet


def _tensors(net: nn.Module, *, repeated: bool) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name. With ``repeated``, a shared one comes under each of its names."""
    yield from net.named_parameters(remove_duplicate=not repeated)
    yield from net.named_buffers(remove_duplicate=not repeated)


def _drop_repeated_tensors(net: DepthNet, state: dict[str, Tensor], prefix: str, metadata: dict) -> None:
    """A hook of ``state_dict``: keeps every shared tensor under one name only."""
    once = {prefix + name for name, _ in _tensors(net, repeated=False)}
    for name in [name for name in state if name.startswith(prefix) and name not in once]:
        del state[name]


def _check_and_repeat_tensors(net: DepthNet, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A hook of ``load_state_dict``: refuses other weights, and repeats a shared tensor under each name."""
    expected = [list(_blocks_per_stage(net.at_depth(depth))) for depth in net.depths]
    found = state[f"{prefix}blocks"].tolist() if f"{prefix}blocks" in state else "no depths"
    if found != expected:
        raise InputError(
            f"These weights are of another family of depths: blocks a stage are {found}, here {expected}. "
            "Build the network with the depths they were saved with."
        )
    names = {prefix + name for name, _ in _tensors(net, repeated=False)}
    odd = sorted(names ^ {name for name in state if name.startswith(prefix)})
    if odd:
        raise InputError(
            f"These weights are not this network's: only one has {odd[0]!r}. Build it with the batch_norm "
            "(private or shared) they were saved with."
        )
    first: dict[int, str] = {}
    for name, tensor in _tensors(net, repeated=True):
        state[prefix + name] = state[prefix + first.setdefault(id(tensor), name)]
