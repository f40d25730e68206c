"""Several networks on the same images: modules that they begin with in common run once.

Two networks compute the same as long as the same modules follow one another on the same input: sub-nets
have the stem and the beginning of the first stage in common, and more where whole stages agree. Exact,
not an approximation: what is not computed again would have given the same bits.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

from torch import Tensor, nn

from kdnb.networks.features import Features, ended
from kdnb.networks.resnet import ResidualNetwork


def features_of_all(nets: Sequence[ResidualNetwork], images: Tensor) -> list[Features]:
    """Each network's features of ``images`` (B, 3, H, W), as one pass after another would give them.

    The running statistics of batch norms in common too, given that each network's blocks lie inside
    those of the one before it: then each batch norm sees its batches in the same order.
    """
    stems = _advance([list(net.stem) for net in nets], [images] * len(nets))
    levels = [stems]
    for stages in zip(*(net.stages for net in nets), strict=True):
        levels.append(_advance([list(stage) for stage in stages], levels[-1]))
    shown = zip(*levels, strict=True)
    return [ended(stem, maps, net.head) for net, (stem, *maps) in zip(nets, shown, strict=True)]


def _advance(sequences: Sequence[list[nn.Module]], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Each input through its modules, one after another; a beginning in common runs once."""
    beginnings = [
        [(id(x), *map(id, modules[: n + 1])) for n in range(len(modules))]
        for x, modules in zip(inputs, sequences, strict=True)
    ]
    users = Counter(chain.from_iterable(beginnings))
    known: dict[tuple[int, ...], Tensor] = {}
    outputs = []
    for x, modules, paths in zip(inputs, sequences, beginnings, strict=True):
        for module, path in zip(modules, paths, strict=True):
            if path in known:
                x = known[path]
                continue
            with _counted(module, users[path]):
                x = module(x)
            if users[path] > 1:
                known[path] = x
        outputs.append(x)
    return outputs


@contextmanager
def _counted(module: nn.Module, times: int) -> Iterator[None]:
    """Batch norms in ``module`` count the batch they see in training ``times`` times.

    n updates r <- (1 - m) r + m s with one batch's s are one update with 1 - (1 - m)^n for m.
    """
    modules = module.modules() if times > 1 else ()
    norms = [norm for norm in modules if isinstance(norm, nn.BatchNorm2d) and norm.training]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            if norm.momentum is None:  # its statistics are the mean over all batches
                norm.momentum = times / (int(norm.num_batches_tracked) + times)
            else:
                norm.momentum = 1 - (1 - norm.momentum) ** times
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.add_(times - 1)
