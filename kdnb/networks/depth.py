"""One residual network that can be run at several depths, with one set of convolutions.

Stated by the paper (Embedded Knowledge Distillation in Depth-level Dynamic Neural Network, abstract):
sub-nets of different depth in one network, switched at run time, with shared weights. Ours, for the
full text was not at hand: which blocks a sub-net has, and how batch norm is treated.
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
    parameters: int
    macs: int  # multiply-accumulates for one image
    milliseconds: float  # of one forward pass, measured here and now


class DepthNet(Network):
    """``full`` and its sub-nets: the first blocks of every stage, between the same stem and head.

        net = DepthNet(build("resnet20", classes=10), (14, 8))
        logits = net.at_depth(14)(images)  # net(images) is the full net's

    depths: the sub-nets from deep to shallow. A number of layers stands for the family's network of
    that depth; blocks of every stage, such as (3, 3, 2), name any other. batch_norm: "private", a sub-net
    has batch norms of its own, which start as copies, from the stage after its first early stop on:
    until then it sees what the deeper net sees, and their batches have the same statistics; or
    "shared", one set serves all depths.

    The sub-nets are networks, built once from the full net's own modules. Nothing is switched: there
    is no current depth, so threads may run different depths at a time (in training, as for any
    network, one thread at a time may update batch norm statistics). ``state_dict`` holds every tensor
    once, under the name that ``named_parameters`` gives it.

    Raises InputError for a network that is not a ResNet of kdnb, for depths that do not lie inside
    the full net, each strictly inside the one before, and, in ``load_state_dict``, for other depths.
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
        blocks = _nested(full, depths)
        self.full = full
        subnets, above = [], full
        for counts in blocks[1:]:
            above = _subnet(above, counts, batch_norm)
            subnets.append(above)
        self.subnets = nn.ModuleDict({str(net.depth): net for net in subnets})
        self.channels, self.reductions, self.classes = full.channels, full.reductions, full.classes
        self.register_buffer("blocks", torch.tensor(blocks))  # (depths, stages), kept in files
        self.register_state_dict_post_hook(_keep_each_once)
        self.register_load_state_dict_pre_hook(_check_and_spread)

    @property
    def head(self) -> nn.Linear:
        return self.full.head

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers of the full net and of the sub-nets, deepest first."""
        return (self.full.depth, *map(int, self.subnets))

    def at_depth(self, depth: int) -> ResidualNetwork:
        """The network of ``depth`` layers: a view, whose weights are this network's own.

        Raises InputError for a depth that is not among ``depths``.
        """
        if depth not in self.depths:
            raise InputError(f"There is no depth {depth}; there are {', '.join(map(str, self.depths))}.")
        return self.full if depth == self.full.depth else self.subnets[str(depth)]

    def export(self, depth: int) -> ResidualNetwork:
        """A plain network of ``depth`` layers with weights of its own, equal bit for bit.

        Its ``state_dict`` fits ``build("resnet14", ...)`` where the family has that depth by name.
        """
        return copy.deepcopy(self.at_depth(depth))

    def features(self, images: Tensor) -> Features:
        return self.full.features(images)

    def features_at_all(self, images: Tensor) -> dict[int, Features]:
        """What every depth shows, from one pass that computes what depths have in common once.

        Equal to one pass after another, deepest first: outputs, gradients, running statistics.
        """
        nets = [self.at_depth(depth) for depth in self.depths]
        return dict(zip(self.depths, features_of_all(nets, images), strict=True))

    def costs(self, *, size: int = 32, batch: int = 1) -> dict[int, DepthCost]:
        """What each depth costs for images of ``size`` pixels, deepest first."""
        nets = [self.at_depth(depth) for depth in self.depths]
        times = forward_times(nets, size=size, batch=batch)
        return {
            net.depth: DepthCost(*cost(net, size=size), time) for net, time in zip(nets, times, strict=True)
        }

    def fit_budget(
        self, *, macs: float | None = None, milliseconds: float | None = None, size: int = 32, batch: int = 1
    ) -> int:
        """The deepest depth within a budget of MACs for one image, or of milliseconds for one forward
        pass of ``batch`` images, measured on this machine; or of both.

        Raises InputError without a budget, and, naming the cheapest depth, where none fits.
        """
        if macs is None and milliseconds is None:
            raise InputError("fit_budget needs a budget: macs=..., milliseconds=..., or both.")
        within = [  # nan fits nothing
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


def _nested(full: ResidualNetwork, depths: Sequence[int | Sequence[int]]) -> list[tuple[int, ...]]:
    """Blocks of every stage: of the full net, then of each sub-net."""
    try:
        depths = [tuple(map(index, d)) if isinstance(d, Sequence) else index(d) for d in depths]
    except TypeError:
        raise InputError(
            "depths are whole numbers of layers, such as (14, 8), or blocks of every stage, such as "
            f"((3, 3, 2),); found {depths!r}."
        ) from None
    if not depths:
        raise InputError("A network of several depths needs sub-nets: name at least one depth, such as 8.")
    blocks = [_blocks(full)]
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


def _blocks(net: ResidualNetwork) -> tuple[int, ...]:
    return tuple(len(stage) for stage in net.stages)


def _subnet(above: ResidualNetwork, blocks: tuple[int, ...], batch_norm: str) -> ResidualNetwork:
    """A copy of the net ``above`` with the first blocks of every stage, in which what is shared is not
    copied: it is the same module."""
    alike = len(blocks)
    if batch_norm == "private":
        alike = 1 + [own < n for own, n in zip(blocks, _blocks(above), strict=True)].index(True)
    shared = [module for module in above.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    shared += [*above.stem, *(block for stage in above.stages[:alike] for block in stage)]
    subnet = copy.deepcopy(above, {id(module): module for module in shared})
    subnet.stages = nn.ModuleList(stage[:count] for stage, count in zip(subnet.stages, blocks, strict=True))
    return subnet


def _tensors(net: nn.Module, *, repeated: bool) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name; ``repeated``, shared ones under each of their names."""
    yield from net.named_parameters(remove_duplicate=not repeated)
    yield from net.named_buffers(remove_duplicate=not repeated)


def _keep_each_once(net: DepthNet, state: dict[str, Tensor], prefix: str, metadata: dict) -> None:
    once = {prefix + name for name, _ in _tensors(net, repeated=False)}
    for name in [name for name in state if name.startswith(prefix) and name not in once]:
        del state[name]


def _check_and_spread(net: DepthNet, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Refuses the tensors of another net; hands a shared one to each of its names."""
    expected = [list(_blocks(net.at_depth(depth))) for depth in net.depths]
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
