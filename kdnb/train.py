"""One loop for every method; the notebook owns the ``for``.

    for epoch in train(method, batches, epochs=12, lr=0.05):
        history.append(epoch.losses | evaluate(method, test))

Device, precision and several processes are Lightning Fabric's work, in this file alone. Started by
``torchrun``, every process trains on its share of each batch and gradients are averaged.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import cos, pi
from time import perf_counter

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import (
    DoublePrecision,
    MixedPrecision,
    Precision,
)
from torch import Tensor, nn
from torch.optim import Optimizer

from kdnb.datasets.batches import Batches
from kdnb.errors import InputError, known
from kdnb.functional import correct
from kdnb.method import Method
from kdnb.seeds import derived_seed

Schedule = Callable[[float], float]
Pairs = Iterable[tuple[Tensor, Tensor]]
CHECK_EVERY = 50  # steps between looks at the losses: each look waits for the device
PRECISIONS = ("auto", "fp32", "bf16", "fp64")


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return (1 + cos(pi * progress)) / 2


def drops(*at: float, factor: float = 0.1) -> Schedule:
    """Multiplies by ``factor`` at each of the given points of progress: ``drops(0.6, 0.8)``."""
    return lambda progress: factor ** sum(progress >= point for point in at)


class NotFinite(ArithmeticError):
    """A loss term became infinite or not a number; the message names the term and the step."""


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

    batches: ``Batches``, or anything with a length that yields (images, labels) anew each epoch, such
    as a DataLoader. schedule: factor of ``lr`` as a function of progress in [0, 1). precision:
    "auto" is bf16 autocast with channels_last where the machine has fast bf16, else fp32; also
    "fp32", "bf16", "fp64". device: "auto", "cpu", "cuda" or "mps". seed: of what is random in the
    forward passes; the global random state is left alone. resume: an earlier ``Epoch.state()``.

    Raises InputError for settings out of range, NotFinite when a term is not finite: nothing is
    yielded for that epoch, so the last saved state is sound.
    """
    if epochs < 1 or not 0 < lr < float("inf"):
        raise InputError(f"epochs must be at least 1 and lr above 0, found {epochs} and {lr}.")
    fabric, bf16 = _fabric(device, precision)
    layout = torch.channels_last if bf16 else torch.contiguous_format
    method.to(device=fabric.device, memory_format=layout)
    optimizers = method.optimizers(lr)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
    first = 0
    if resume is not None:
        first = resume["epoch"]
        method.load_state_dict(resume["method"])
        for optimizer, state in zip(optimizers, resume["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    module, *wrapped = fabric.setup(method, *optimizers)
    if isinstance(batches, Batches):
        batches = batches.to(fabric.device)
    for number in range(first, epochs):
        method.train()
        start = perf_counter()
        steps = _steps(batches, number, fabric, layout)
        with _reproducible(derived_seed(seed, "train", number, fabric.global_rank), fabric.device):
            losses = _one_epoch(fabric, module, wrapped, steps, len(batches), number, epochs, schedule)
        rate = optimizers[0].param_groups[0]["lr"]
        yield Epoch(number + 1, losses, rate, perf_counter() - start, bf16, method, optimizers)


def evaluate(
    method: nn.Module, batches: Batches | Pairs, *, precision: str = "auto"
) -> dict[str, float]:
    """Top-1 accuracy in percent, by learner: every entry of ``method.outputs``.

    A plain network gives one entry, ``"network"``. Modes are restored; nothing is learned.
    """
    device = next(method.parameters()).device
    outputs = method.outputs if isinstance(method, Method) else lambda x: {"network": method(x)}
    if isinstance(batches, Batches):
        batches = batches.to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=_use_bf16(precision, device))
    modes = {module: module.training for module in method.modules()}
    method.eval()
    right, count = {}, 0
    with torch.inference_mode(), autocast:
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            count += len(labels)
            for name, logits in outputs(images).items():
                right[name] = right.get(name, 0) + correct(logits, labels).sum()
    for module, mode in modes.items():
        module.training = mode
    return {name: 100 * int(hits) / count for name, hits in right.items()}


def _fabric(device: str, precision: str) -> tuple[Fabric, bool]:
    """Fabric for this process, or for all that torchrun started; and whether it computes in bf16."""
    known("precision", precision, PRECISIONS)
    known("device", device, ("auto", "cpu", "cuda", "mps"))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    several = {"strategy": "ddp", "devices": int(os.environ.get("LOCAL_WORLD_SIZE", processes))}
    placed = Fabric(accelerator=device, devices=1).device
    bf16 = _use_bf16(precision, placed)
    plugin = Precision()
    if bf16:
        plugin = MixedPrecision("bf16-mixed", placed.type)
    elif precision == "fp64":
        plugin = DoublePrecision()
    many = several if processes > 1 else {"devices": 1}
    fabric = Fabric(accelerator=placed.type, plugins=[plugin], **many)
    if processes > 1:
        fabric.launch()
    return fabric, bf16


def _use_bf16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def _steps(batches: Batches | Pairs, epoch: int, fabric: Fabric, layout: torch.memory_format) -> Pairs:
    """This process's share of every batch of an epoch, on its device, in its memory layout."""
    for images, labels in batches.epoch(epoch) if isinstance(batches, Batches) else batches:
        images = images.tensor_split(fabric.world_size)[fabric.global_rank]
        labels = labels.tensor_split(fabric.world_size)[fabric.global_rank]
        images = images.to(fabric.device).contiguous(memory_format=layout)
        yield images, labels.to(fabric.device)


def _one_epoch(
    fabric: Fabric,
    module: nn.Module,
    optimizers: list[Optimizer],
    steps: Pairs,
    length: int,
    epoch: int,
    epochs: int,
    schedule: Schedule,
) -> dict[str, float]:
    values: list[Tensor] = []
    names: list[str] = []
    for step, (images, labels) in enumerate(steps):
        position = epoch + step / length
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * schedule(position / epochs)
            optimizer.zero_grad(set_to_none=True)
        terms = module(images, labels, position)
        fabric.backward(sum(terms.values()))
        for optimizer in optimizers:
            optimizer.step()
        names = list(terms)
        values.append(torch.stack([term.detach() for term in terms.values()]))
        if len(values) % CHECK_EVERY == 0:
            _check_finite(values[-CHECK_EVERY:], names, epoch * length + step + 1 - CHECK_EVERY)
    if not values:
        raise InputError("The batches are empty: there is nothing to train on.")
    _check_finite(values[-CHECK_EVERY:], names, epoch * length + max(0, len(values) - CHECK_EVERY))
    means = torch.stack(values).double().mean(0).tolist()
    return dict(zip(names, means, strict=True))


def _check_finite(values: list[Tensor], names: list[str], first_step: int) -> None:
    bad = (~torch.isfinite(torch.stack(values))).nonzero().tolist()
    if bad:
        step, term = bad[0]
        raise NotFinite(
            f"The term {names[term]!r} is not finite at step {first_step + step}. Lower the "
            "learning rate or the term's weight; the state saved before this epoch is sound."
        )


@contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """One seed for the random draws inside, deterministic kernels, and the old state afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.backends.cudnn.flags(deterministic=True):
        torch.manual_seed(seed)
        yield
