"""How far the statistics of batch norm are from those that a network would have on its own."""

from torch import Tensor, nn


def batch_norm_gap(net: nn.Module, own: nn.Module) -> dict[str, float]:
    """The distance of every running mean from that of the same network with statistics of its own.

    Args:
        net: A network, such as one depth of a network whose depths share batch norm.

        own: The same network with statistics of its own, from ``kdnb.networks.recalibrated``.

    Returns:
        The distance for each batch norm, by its path. It is measured in standard deviations of each
        channel, as the root mean square over the channels.
    """
    pairs = ((name, norm, own.get_submodule(name)) for name, norm in net.named_modules())
    return {name: _gap(norm, other).item() for name, norm, other in pairs if isinstance(norm, nn.BatchNorm2d)}


def _gap(norm: nn.BatchNorm2d, own: nn.BatchNorm2d) -> Tensor:
    return (
        ((norm.running_mean - own.running_mean) / (own.running_var + own.eps).sqrt()).square().mean().sqrt()
    )
