"""``train``: one loop for every method, as a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from kdnb.datasets.batches import Batch, Batches
from kdnb.datasets.streaming import StreamedBatches
from kdnb.errors import InputError
from kdnb.method import Method
from kdnb.seeds import derived_seed
from kdnb.train import graph as graphs
from kdnb.train.hardware import Rates, fabric_for, fuse, reproducible
from kdnb.train.losslog import LossLog, require_finite_weights
from kdnb.train.schedules import Schedule, cosine
from kdnb.train.threads import on_own_cores

MACHINES_OWN = ("lr", "fused", "foreach", "capturable")  # of a parameter group: never from a saved state


class TrainingLoader(Protocol):
    """What ``train`` reads images from, beside ``Batches``: a DataLoader is one.

    Every iteration is one epoch. It yields ``Batch`` objects, or pairs of images (B, 3, H, W) and labels
    (B,).
    """

    def __len__(self) -> int:
        """Batches in an epoch."""

    def __iter__(self) -> Iterator[Batch | tuple[Tensor, Tensor]]:
        """The batches of one epoch."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        number: Epochs finished so far.

        losses: The mean of every term over the steps of the epoch in which it occurred.

        lr: Learning rate of the first optimizer at the end of the epoch.

        seconds: Time that the steps took.

        bf16: Whether the precision was bf16 autocast.
    """

    number: int
    losses: dict[str, float]
    lr: float
    seconds: float
    bf16: bool
    _method: Method = field(repr=False)
    _optimizers: list[Optimizer] = field(repr=False)

    def state(self) -> dict:
        """Everything that ``train(..., resume=state)`` needs to go on with the same bits.

        The state refers to live tensors: save it, or copy it, before the next epoch begins.
        """
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers]
        for group in (group for optimizer in optimizers for group in optimizer["param_groups"]):
            group["lr"] = float(group["lr"])  # a tensor where a GPU reads it
        return {
            "epoch": self.number,
            "method": self._method.state_dict(),
            "optimizers": optimizers,
        }


def train(
    method: Method,
    batches: Batches | TrainingLoader,
    *,
    epochs: int,
    lr: float,
    schedule: Schedule = cosine,
    precision: str = "auto",
    device: str = "auto",
    seed: int = 0,
    resume: dict | None = None,
    graph: bool = False,
    compile: bool = False,
) -> Iterator[Epoch]:
    """Trains ``method`` in place and yields after every epoch; ``break`` stops early.

    Everything is laid out channels last. On a GPU no step waits for the host: the loss terms are read every
    50 steps, SGD and Adam take their step in one kernel a parameter group, and their learning rate lies on
    the device. Where torch has two threads for two cores, each keeps to one of them while an epoch runs,
    and trainings side by side take turns.

    Args:
        method: What is trained. It stays on the device it is brought to.

        batches: ``Batches``, or anything with a length that yields ``Batch`` objects or pairs (images,
            labels) anew in each epoch, such as a DataLoader. Of ``Batches`` an incomplete last batch is
            dropped where the method asks for full ones; a DataLoader needs drop_last=True there. Further
            views come from ``Batches``, or from a loader of ``Batch`` objects that carry them.

        epochs: How many epochs there are in all, those before ``resume`` included.

        lr: Learning rate at the start.

        schedule: Factor of ``lr`` as a function of progress in [0, 1).

        precision: ``"auto"`` is bf16 autocast where the machine has fast bf16, else fp32; or ``"fp32"``,
            ``"bf16"``, ``"fp64"``. ``"fp32"`` is real fp32 on every device: TF32 is off.

        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.

        seed: Of what is random in the forward passes. The global random state is left as it was.

        resume: An earlier ``Epoch.state()``. ``lr``, ``schedule`` and ``epochs`` may differ from those it
            was made with.

        graph: Whether a whole step is captured as one CUDA graph, at the start of every epoch, and replayed
            for its batches. It helps where launching kernels takes longer than running them: small networks
            on a large GPU. It needs one process, batches of one size, and a method whose terms depend on
            ``epoch`` by its whole part alone. What ``losses`` does in Python, such as counting steps, happens
            once an epoch.

        compile: Whether ``torch.compile`` compiles the method's forward pass. The first step then takes
            tens of seconds. On a CPU it is allowed and does not pay. The names in ``state_dict`` stay. Nor
            does it pay for methods whose weights follow ``epoch``, such as FFSD and ONE: they are compiled
            anew in every epoch, and after eight times torch goes on without compiling. The hooks of ECD are
            compiled in many small parts.

    Yields:
        An ``Epoch`` after every epoch.

    Raises:
        InputError: For settings out of range, and for a loader that does not give what the method needs.
        NotFinite: When a term or a weight is not finite. Nothing is yielded for that epoch, so the last
            saved state is sound.
    """
    if epochs < 1 or not 0 < lr < float("inf"):
        raise InputError(f"epochs must be at least 1 and lr above 0, found {epochs} and {lr}.")
    fabric, bf16 = fabric_for(device, precision)
    method.to(device=fabric.device, memory_format=torch.channels_last)
    optimizers = method.optimizers(lr)
    fuse(optimizers, fabric.device, capturable=graph)
    batches = _prepared(batches, method, fabric)
    if graph:
        graphs.require_graph(fabric.device, fabric.world_size, batches, optimizers)
    module, *steppers = fabric.setup(torch.compile(method) if compile else method, *optimizers)
    first = 0 if resume is None else _restore(resume, method, optimizers)
    rates = Rates(optimizers, fabric.device if graph or fabric.device.type == "cuda" else None)
    step = partial(_step, module, steppers, fabric)
    if graph:
        step = graphs.GraphedStep(module, step, method, optimizers, graphs.CudaGraphs())
    for number in range(first, epochs):
        method.train()
        log, start = LossLog(fabric.all_reduce, number * len(batches)), perf_counter()
        with reproducible(derived_seed(seed, "train", number), fabric.device):
            method.begin_epoch(number)
            shares = _shares(batches, number, method.views, fabric)
            for batch in on_own_cores(shares, fabric.device):
                position = log.steps / len(batches)  # in epochs, fractional
                rates.scale(schedule(position / epochs))
                log.add(step(batch, position))
        losses = log.means()
        require_finite_weights(method, log.steps)
        lr_now, seconds = float(rates.groups[0]["lr"]), perf_counter() - start
        yield Epoch(number + 1, losses, lr_now, seconds, bf16, method, optimizers)


def _step(
    module: Callable[[Batch, float], dict[str, Tensor]],
    steppers: list,
    fabric: Fabric,
    batch: Batch,
    epoch: float,
) -> dict[str, Tensor]:
    """One training step, which never waits for the device: its loss terms."""
    terms = module(batch, epoch)
    for stepper in steppers:
        stepper.zero_grad()
    fabric.backward(sum(terms.values()))
    for stepper in steppers:
        stepper.step()
    return terms


def _restore(state: dict, method: Method, optimizers: list[Optimizer]) -> int:
    """The number of epochs that the state has behind it."""
    if other := sorted(state["method"].keys() ^ method.state_dict().keys()):
        raise InputError(
            f"The state to resume from is of another method: only one of the two has {other[0]!r} and "
            f"{len(other) - 1} more. Build the method with the networks and options it had, as many "
            "students for example, or start over."
        )
    method.load_state_dict(state["method"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        own = [
            group | {name: mine[name] for name in MACHINES_OWN if name in mine}
            for group, mine in zip(saved["param_groups"], optimizer.param_groups, strict=True)
        ]
        optimizer.load_state_dict(saved | {"param_groups": own})
    return state["epoch"]


def _prepared(batches: Batches | TrainingLoader, method: Method, fabric: Fabric) -> Batches | TrainingLoader:
    """``Batches`` on the device, with full batches and as many views as the method asks for.

    Of pictures that are streamed, each process decodes its own share.
    """
    if not isinstance(batches, Batches):
        return batches
    if isinstance(batches, StreamedBatches):
        batches = batches.for_process(fabric.global_rank, fabric.world_size)
    full = batches.drop_last or method.fixed_batch
    return replace(batches.to(fabric.device), drop_last=full, views=method.views)


def _shares(batches: Batches | TrainingLoader, epoch: int, views: int, fabric: Fabric) -> Iterator[Batch]:
    """This process's share of every batch of an epoch, on its device.

    Shares are of one size, so that the mean of their gradients is the batch's. Where the batch does not
    divide, its first images are shown once more.

    Raises:
        InputError: For a batch that carries fewer than ``views`` further views.
    """
    for loaded in batches.epoch(epoch) if isinstance(batches, Batches) else batches:
        batch = Batch.of(loaded)
        if len(batch.views) < views:
            raise InputError(
                f"The method asks for {views} further views of every image, and a batch of this loader "
                f"carries {len(batch.views)}. Train from kdnb.datasets with augmentation "
                "(data.train_batches), or let the loader yield Batch objects with that many views."
            )
        if fabric.world_size > 1 and not isinstance(batches, StreamedBatches):
            count = len(batch.labels)
            most = -(-count // fabric.world_size)
            mine = torch.arange(most, device=batch.labels.device) * fabric.world_size + fabric.global_rank
            batch = batch.take(mine % count)
        yield batch.to(fabric.device)
