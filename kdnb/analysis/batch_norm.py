"""How far batch norms are from the statistics that a network would have of its own."""

from torch import Tensor, nn


def batch_norm_gap(net: nn.Module, own: nn.Module) -> dict[str, float]:
    """For each batch norm of ``net``, by name: how far its running mean is off the one in ``own``, the same
    network with statistics of its own (``kdnb.networks.recalibrated``).

    In standard deviations of that channel, root mean square over the channels.
    """
    pairs = ((name, norm, own.get_submodule(name)) for name, norm in net.named_modules())
    return {name: _gap(norm, other).item() for name, norm, other in pairs if isinstance(norm, nn.BatchNorm2d)}


def _gap(norm: nn.BatchNorm2d, own: nn.BatchNorm2d) -> Tensor:
    return (
        ((norm.running_mean - own.running_mean) / (own.running_var + own.eps).sqrt()).square().mean().sqrt()
    )
