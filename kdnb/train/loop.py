"""One loop for every method; the notebook owns the ``for``.

    for epoch in train(method, batches, epochs=12, lr=0.05):
        history.append(epoch.losses | evaluate(method, test))

Device, precision and several processes are Lightning Fabric's work, in this file alone. Started by
``torchrun``, every process trains on its share of each batch and gradients are averaged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from lightning_fabric import Fabric
from torch.optim import Optimizer

from kdnb.datasets.batches import Batches
from kdnb.errors import InputError
from kdnb.method import Method
from kdnb.seeds import derived_seed
from kdnb.train.evaluation import Pairs
from kdnb.train.hardware import fabric_for, reproducible
from kdnb.train.losslog import LossLog, require_finite_weights
from kdnb.train.schedules import Schedule, cosine


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    number: epochs finished so far. losses: the mean of each term over the epoch. lr: the first
    optimizer's, at the end. seconds: of the steps alone. bf16: whether precision was bf16 autocast.
    """

    number: int
    losses: dict[str, float]
    lr: float
    seconds: float
    bf16: bool
    _method: Method = field(repr=False)
    _optimizers: list[Optimizer] = field(repr=False)

    def state(self) -> dict:
        """All that ``train(..., resume=state)`` needs to go on with the same bits.

        It refers to live tensors: save it, or copy it, before the next epoch begins.
        """
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers]
        return {
            "epoch": self.number,
            "method": self._method.state_dict(),
            "optimizers": optimizers,
        }


def train(
    method: Method,
    batches: Batches | Pairs,
    *,
    epochs: int,
    lr: float,
    schedule: Schedule = cosine,
    precision: str = "auto",
    device: str = "auto",
    seed: int = 0,
    resume: dict | None = None,
) -> Iterator[Epoch]:
    """Trains ``method`` in place and yields after every epoch; ``break`` stops early.

    batches: ``Batches``, or anything with a length that yields (images, labels) anew each epoch,
    such as a DataLoader. Of ``Batches`` an incomplete last one is dropped where the method asks for
    full ones; a DataLoader needs drop_last=True there.
    schedule: factor of ``lr`` as a function of progress in [0, 1). precision: "auto" is bf16
    autocast where the machine has fast bf16, else fp32; also "fp32", "bf16", "fp64". Everything is
    laid out channels_last. device: "auto", "cpu", "cuda" or "mps". seed:
    of what is random in the forward passes; the global random state is left alone. resume: an
    earlier ``Epoch.state()``; lr, schedule and epochs may differ from those it was made with.

    Raises InputError for settings out of range, NotFinite when a term or a weight is not finite:
    nothing is yielded for that epoch, so the last saved state is sound.
    """
    if epochs < 1 or not 0 < lr < float("inf"):
        raise InputError(f"epochs must be at least 1 and lr above 0, found {epochs} and {lr}.")
    fabric, bf16 = fabric_for(device, precision)
    method.to(device=fabric.device, memory_format=torch.channels_last)
    optimizers = method.optimizers(lr)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    module, *steppers = fabric.setup(method, *optimizers)
    first = 0 if resume is None else _restore(resume, method, optimizers)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if isinstance(batches, Batches):
        full = batches.drop_last or method.fixed_batch
        batches = replace(batches.to(fabric.device), drop_last=full)
    for number in range(first, epochs):
        method.train()
        log, start = LossLog(fabric.all_reduce, number * len(batches)), perf_counter()
        with reproducible(derived_seed(seed, "train", number), fabric.device):
            for images, labels in _shares(batches, number, fabric):
                position = log.steps / len(batches)  # in epochs, fractional
                for group, rate in zip(groups, rates, strict=True):
                    group["lr"] = rate * schedule(position / epochs)
                terms = module(images, labels, position)
                for stepper in steppers:
                    stepper.zero_grad()
                fabric.backward(sum(terms.values()))
                for stepper in steppers:
                    stepper.step()
                log.add(terms)
        losses = log.means()
        require_finite_weights(method, log.steps)
        lr_now, seconds = groups[0]["lr"], perf_counter() - start
        yield Epoch(number + 1, losses, lr_now, seconds, bf16, method, optimizers)


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
        optimizer.load_state_dict(saved)
    return state["epoch"]


def _shares(batches: Batches | Pairs, epoch: int, fabric: Fabric) -> Pairs:
    """This process's share of every batch of an epoch, on its device, channels last.

    Shares are of one size, so that the mean of their gradients is the batch's; where the batch does
    not divide, its first images are shown once more.
    """
    for images, labels in batches.epoch(epoch) if isinstance(batches, Batches) else batches:
        if fabric.world_size > 1:
            most = -(-len(labels) // fabric.world_size)
            mine = torch.arange(most, device=labels.device) * fabric.world_size + fabric.global_rank
            images, labels = images[mine % len(labels)], labels[mine % len(labels)]
        images = images.to(fabric.device).contiguous(memory_format=torch.channels_last)
        yield images, labels.to(fabric.device)
