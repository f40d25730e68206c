"""Runs several networks on the same images and computes what they have in common once.

Two networks compute the same values for as long as the same modules follow one another on the same input.
The sub-nets of a ``DepthNet`` have the stem and the beginning of the first stage in common, and more where
whole stages agree. This is not an approximation: a computation that is left out would have given the same
bits.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

from torch import Tensor, nn

from kdnb.networks.features import Features, ended
from kdnb.networks.resnet import ResidualNetwork


def features_of_all(nets: Sequence[ResidualNetwork], images: Tensor) -> list[Features]:
    """The features of every network for the same images.

    The features are equal bit for bit to those of one pass after another. Running statistics of shared
    batch norms then agree to rounding, provided that the blocks of each network are among those of the
    network before it, because every batch norm then sees its batches in the same order. Gradients agree to
    rounding. ``DepthNet.features_at_all`` says by how much.

    Args:
        nets: The networks, which may share modules.

        images: The images, (B, 3, H, W).

    Returns:
        The features of each network, in the order of ``nets``.
    """
    stems = _run_sequences([list(net.stem) for net in nets], [images] * len(nets))
    levels = [stems]
    for stages in zip(*(net.stages for net in nets), strict=True):
        levels.append(_run_sequences([list(stage) for stage in stages], levels[-1]))
    shown = zip(*levels, strict=True)
    return [ended(stem, maps, net.head) for net, (stem, *maps) in zip(nets, shown, strict=True)]


def _run_sequences(sequences: Sequence[list[nn.Module]], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Runs each input through its sequence of modules. A beginning that sequences share runs once."""
    beginnings = [  # the input and the modules up to each place; equal beginnings compute the same
        [(id(x), *map(id, modules[: n + 1])) for n in range(len(modules))]
        for x, modules in zip(inputs, sequences, strict=True)
    ]
    users = Counter(chain.from_iterable(beginnings))
    computed: dict[tuple[int, ...], Tensor] = {}
    outputs = []
    for x, modules, paths in zip(inputs, sequences, beginnings, strict=True):
        for module, path in zip(modules, paths, strict=True):
            if path in computed:
                x = computed[path]
                continue
            with _counting_batches(module, users[path]):
                x = module(x)
            if users[path] > 1:
                computed[path] = x
        outputs.append(x)
    return outputs


@contextmanager
def _counting_batches(module: nn.Module, times: int) -> Iterator[None]:
    """Makes the batch norms in ``module`` count a training batch ``times`` times.

    With momentum m, running statistic r and batch statistic s, n updates r <- (1 - m) r + m s are equal to
    one update with the momentum 1 - (1 - m)^n.
    """
    modules = module.modules() if times > 1 else ()
    norms = [norm for norm in modules if isinstance(norm, nn.BatchNorm2d) and norm.training]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            if norm.momentum is None:  # the running statistics are the mean over all batches
                norm.momentum = times / (int(norm.num_batches_tracked) + times)
            else:
                norm.momentum = 1 - (1 - norm.momentum) ** times
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.add_(times - 1)
