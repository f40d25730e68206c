"""Method: what a paper trains and what it minimises. frozen: a network that only teaches. evaluating:
a look that leaves no trace. ledger: whose gradient comes from which term."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

Net = TypeVar("Net", bound=nn.Module)


class Method(nn.Module):
    """Owns every network and auxiliary module that a paper trains, and says what it minimises.

    The sum of ``losses`` is what training minimises, logs and plots. Who learns from whom is decided
    by ``detach`` alone; what only teaches is ``frozen``. A pass leaves no state behind.

    momentum, weight_decay, nesterov: settings of the default optimizer, one for all parameters. An
    instance may change them before training; a paper with other needs overrides ``optimizers``.
    fixed_batch: whether every batch must be full; ``train`` then drops an incomplete last one.
    group: outputs of which ``evaluate`` also reports the union: an image counts where one is right.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    fixed_batch: bool = False
    group: tuple[str, ...] = ()

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        """Weighted scalar terms, named ``"learner/term"``.

        images (B, 3, H, W), labels (B,). epoch is fractional and counts from 0: the middle of the
        second epoch is 1.5.
        """
        raise NotImplementedError

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) of all that is worth evaluating, by learner."""
        raise NotImplementedError

    def optimizers(self, lr: float) -> list[Optimizer]:
        """SGD over all that learns, with weight decay on every parameter, as the benchmarks do."""
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [SGD(learning, lr, self.momentum, 0, self.weight_decay, self.nesterov)]

    def export(self) -> nn.Module:
        """The plain network to keep; everything else was scaffolding."""
        raise NotImplementedError

    def kept_beside(self) -> dict[str, nn.Module]:
        """What a run keeps beside the export, each in a file of that name: nothing, for most."""
        return {}

    def forward(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        return self.losses(images, labels, epoch)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Everything in ``net`` is in eval mode while the block runs, then in the mode it had."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Frozen:
    """Mixed into a frozen network's class: ``train()`` on it, or on its owner, has no effect."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


def frozen(net: Net) -> Net:
    """Stops ``net`` learning, in place, and returns it: no parameter gradients, and an eval mode that
    ``method.train()`` cannot undo, so batch-norm statistics stay bit-equal.

    It is not ``no_grad``: a gradient still flows *through* the network to its input, which SRRL
    needs. Freezing twice changes nothing.
    """
    net.eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    if not isinstance(net, _Frozen):
        net.__class__ = type(f"Frozen{type(net).__name__}", (_Frozen, type(net)), {})
    return net


def ledger(
    method: Method, images: Tensor, labels: Tensor, *, epoch: float = 0.0, parts: Sequence[str] = ()
) -> pd.DataFrame:
    """The gradient ledger: who teaches whom.

    Rows are the terms of ``method.losses``, columns its networks and auxiliary modules (a list of
    peers counts one by one), then ``parts``: dotted names of submodules worth a column of their own,
    such as ``"student.head"``. A cell is the Euclidean norm of that term's gradient in that module's
    parameters; exactly 0 where nothing flows. The method is left as it was.

    Raises AttributeError for a part that does not exist.
    """
    columns = _networks(method) | {name: method.get_submodule(name) for name in parts}
    buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
    modes = {module: module.training for module in method.modules()}
    method.train()
    terms = method.losses(images, labels, epoch)
    rows = {name: _gradient_norms(term, method, columns) for name, term in terms.items()}
    for module, mode in modes.items():
        module.training = mode
    with torch.no_grad():
        for name, buffer in method.named_buffers():
            buffer.copy_(buffers[name])
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))


def _networks(method: Method) -> dict[str, nn.Module]:
    networks = {}
    for name, child in method.named_children():
        if isinstance(child, nn.ModuleList):
            networks |= {f"{name}.{index}": peer for index, peer in enumerate(child)}
        else:
            networks[name] = child
    return networks


def _gradient_norms(term: Tensor, method: Method, columns: dict[str, nn.Module]) -> list[float]:
    learning = [parameter for parameter in method.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(term, learning, retain_graph=True, allow_unused=True)
    squares = {
        id(parameter): 0.0 if gradient is None else gradient.double().square().sum().item()
        for parameter, gradient in zip(learning, gradients, strict=True)
    }
    return [
        sum(squares.get(id(parameter), 0.0) for parameter in module.parameters()) ** 0.5
        for module in columns.values()
    ]
