"""Method, Parts, frozen, evaluating and the gradient ledger.

A Method says what a paper trains and what it minimises. Parts is what a run offers to build one from.
frozen makes a network that only teaches. evaluating is a look that leaves no trace. The ledger shows which
loss term has a gradient in which network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from kdnb.datasets.batches import Batch, Batches

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Parts:
    """What a run offers to the method that it builds; ``Method.assemble`` takes what the method needs.

    Args:
        network: Factory: ``network(i)`` builds learner i with fresh weights of its own. Learner 0 is the
            one that is exported, and it starts from the same weights in every method.

        load_teacher: Loads the teacher. It is called only by a method that has one.

        batch_size: Images in every process's share of a batch.

        labels: Classes of the images that are trained on, int64 (N,).

        indices: ``Batch.indices`` of these images, int64 (N,).

        held_out: Batches of images that are not trained on; None where there are none.
    """

    network: Callable[[int], nn.Module]
    load_teacher: Callable[[], nn.Module]
    batch_size: int
    labels: Tensor
    indices: Tensor
    held_out: Batches | None = None

    @property
    def student(self) -> nn.Module:
        """A fresh network: learner 0."""
        return self.network(0)

    @property
    def teacher(self) -> nn.Module:
        """The teacher, loaded now.

        Raises:
            InputError: Where there is none, or it cannot teach on these data.
        """
        return self.load_teacher()


class Method(nn.Module):
    """Owns every network and auxiliary module that a paper trains, and says what it minimises.

    The sum of the terms of ``losses`` is what training minimises, logs and plots. ``detach`` alone decides
    who learns from whom. What only teaches is ``frozen``. A pass leaves no state behind, but for buffers
    that belong to the method, such as a memory bank.

    A paper overrides ``losses``, ``outputs`` and ``export``. One that needs more than images and labels
    overrides ``forward``, which gets the whole batch. One that is built from more than a student overrides
    ``assemble``.

    Attributes:
        momentum: Of the default optimizer. An instance may change this and the next two before training.

        weight_decay: Of the default optimizer, on every parameter.

        nesterov: Whether the default optimizer uses Nesterov's momentum.

        schedule: Name of the learning-rate schedule (``kdnb.train.SCHEDULES``) that ``kdnb train`` uses
            unless it is told another.

        fixed_batch: Whether every batch must be full. ``train`` then drops an incomplete last one.

        views: How many further views of the same images ``forward`` wants in ``Batch.views``.

        default_student: Network that ``kdnb train`` builds unless it is told another.

        group: Outputs of which ``evaluate`` also reports the union, in which an image counts where one of
            them is right.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: str = "cosine"
    fixed_batch: bool = False
    views: int = 0
    group: tuple[str, ...] = ()
    default_student: str = "resnet8"

    @classmethod
    def assemble(cls, parts: Parts, **options: object) -> Method:
        """Builds the method from what a run offers.

        A method that has a teacher, peers or a memory overrides this and takes them from ``parts``.

        Args:
            parts: Networks and facts about the data.

            options: The keyword arguments of the constructor.
        """
        return cls(parts.student, **options)

    def begin_epoch(self, number: int) -> None:
        """Called by ``train`` before every epoch, in train mode. Most methods do nothing here.

        Args:
            number: Of the epoch, counted from 0.
        """

    def forward(self, batch: Batch, epoch: float) -> dict[str, Tensor]:
        """The loss terms of a batch: ``losses`` of its images and labels.

        Args:
            batch: Images, labels, and where the loader gives them, indices and further views.

            epoch: As for ``losses``.
        """
        return self.losses(batch.images, batch.labels, epoch)

    def losses(self, images: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        """The terms that are minimised, already weighted.

        Args:
            images: (B, 3, H, W).

            labels: (B,), int64.

            epoch: Fractional, counted from 0: the middle of the second epoch is 1.5.

        Returns:
            Scalars named ``"learner/term"``.
        """
        raise NotImplementedError

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) of everything that is worth evaluating, by learner.

        Args:
            images: (B, 3, H, W).
        """
        raise NotImplementedError

    def optimizers(self, lr: float) -> list[Optimizer]:
        """One SGD for everything that learns, with weight decay on every parameter, as the benchmarks do.

        Args:
            lr: Learning rate at the start.
        """
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [SGD(learning, lr, self.momentum, 0, self.weight_decay, self.nesterov)]

    def export(self) -> nn.Module:
        """The plain network to keep. Everything else was scaffolding."""
        raise NotImplementedError

    def kept_beside(self) -> dict[str, nn.Module]:
        """Networks that a run keeps beside the exported one, each in a file of its name."""
        return {}


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Puts every module of ``net`` into eval mode while the block runs, then back into the mode it had."""
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

    def __reduce_ex__(self, protocol: int) -> tuple:
        """Pickles by the class that was frozen: the frozen one has no name that could be imported."""
        _, (_, *arguments), *state = super().__reduce_ex__(protocol)
        return (_new_frozen, (type(self).__bases__[1], *arguments), *state)


@cache
def _frozen_class(plain: type[nn.Module]) -> type[nn.Module]:
    return type(f"Frozen{plain.__name__}", (_Frozen, plain), {"__module__": plain.__module__})


def _new_frozen(plain: type[nn.Module], *arguments: object) -> nn.Module:
    kind = _frozen_class(plain)
    return kind.__new__(kind, *arguments)


def frozen(net: Net) -> Net:
    """Stops a network learning, in place.

    Its parameters get no gradients, and it stays in eval mode whatever ``train()`` is called on it or its
    owner, so that its batch norm statistics stay equal to the bit. This is not ``no_grad``: a gradient
    still flows *through* the network to its input, which SRRL needs. Freezing twice changes nothing.

    Args:
        net: The network.

    Returns:
        ``net`` itself.
    """
    net.eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    if not isinstance(net, _Frozen):
        net.__class__ = _frozen_class(type(net))
    return net


def ledger(
    method: Method,
    images: Tensor,
    labels: Tensor,
    *,
    epoch: float = 0.0,
    parts: Sequence[str] = (),
    indices: Tensor | None = None,
    views: Sequence[Tensor] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """The gradient ledger: which loss term moves which network.

    The method is left as it was: modes, buffers and random state are restored also when a term raises.

    Args:
        method: The method.

        images: One batch (B, 3, H, W).

        labels: (B,), int64.

        epoch: As for ``Method.losses``.

        parts: Dotted names of submodules that get a column of their own, such as ``"student.head"``.

        indices: ``Batch.indices`` (B,), for a method that reads them.

        views: ``Batch.views``, each (B, 3, H, W), for a method that asks for them.

        seed: Of what the method draws at random.

    Returns:
        A row for every term, a column for every network and auxiliary module (peers one by one), then
        for ``parts``. A cell is the Euclidean norm of that term's gradient in that module's parameters,
        and exactly 0 where nothing flows.

    Raises:
        AttributeError: For a part that does not exist.
    """
    columns = _networks(method) | {name: method.get_submodule(name) for name in parts}
    batch = Batch(images, labels, indices, tuple(views))
    with _left_as_it_was(method, images.device):
        torch.manual_seed(seed)
        terms = method.train()(batch, epoch)
        rows = {name: _gradient_norms(term, method, columns) for name, term in terms.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))


def influences(
    method: Method, images: Tensor, labels: Tensor, *, epoch: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """What each loss term depends on, found by trying it.

    The weights of one network at a time are changed a little, then the labels. A term that changes with them
    depends on them. Together with the ledger this tells who teaches whom: a network on which a term depends,
    and in which the term has no gradient, teaches through it.

    The method is left as it was.

    Args:
        method: The method. It must need no more than images and labels.

        images: One batch (B, 3, H, W).

        labels: (B,), int64. They must not all be equal.

        epoch: As for ``Method.losses``.

        seed: Of the changes, and of what the method draws at random.

    Returns:
        A row for every term, a column for every network and auxiliary module as in ``ledger``, then
        ``"labels"``. A cell is True where the term depends on the column.
    """
    networks = _networks(method)
    found = pd.DataFrame()
    with _left_as_it_was(method, images.device), torch.no_grad():
        usual = _values(method, images, labels, epoch, seed)
        for name, network in networks.items():
            with _disturbed(network, seed):
                found[name] = _values(method, images, labels, epoch, seed) != usual
        found["labels"] = _values(method, images, labels.roll(1), epoch, seed) != usual
    return found


def _values(method: Method, images: Tensor, labels: Tensor, epoch: float, seed: int) -> pd.Series:
    torch.manual_seed(seed)
    buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
    terms = method.train()(Batch(images, labels), epoch)
    for name, buffer in method.named_buffers():
        buffer.copy_(buffers[name])
    return pd.Series({name: term.item() for name, term in terms.items()})


@contextmanager
def _disturbed(network: nn.Module, seed: int) -> Iterator[None]:
    """Multiplies every parameter by a random number near 1 while the block runs."""
    kept = [parameter.clone() for parameter in network.parameters()]
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.mul_(1 + 0.1 * noise.to(parameter))
    try:
        yield
    finally:
        for parameter, value in zip(network.parameters(), kept, strict=True):
            parameter.copy_(value)


@contextmanager
def _left_as_it_was(method: nn.Module, device: torch.device) -> Iterator[None]:
    """Restores modes, buffers and the global random state at the end of the block."""
    buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
    modes = {module: module.training for module in method.modules()}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            with torch.no_grad():
                for name, buffer in method.named_buffers():
                    buffer.copy_(buffers[name])


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
