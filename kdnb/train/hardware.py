"""The machine: device, precision, determinism and several processes, by Lightning Fabric."""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import DoublePrecision, MixedPrecision, Precision
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from kdnb.errors import InputError, require_choice

PRECISIONS = ("auto", "fp32", "bf16", "fp64")
FUSED = (SGD, Adam, AdamW)  # torch has one kernel on CUDA for the whole step of each of these


def fabric_for(device: str, precision: str) -> tuple[Fabric, bool]:
    """Fabric for this process, or for all that torchrun started.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.

        precision: One of ``PRECISIONS``.

    Returns:
        The Fabric, and whether it computes in bf16.

    Raises:
        InputError: For an unknown word, and for a device that is not there.
    """
    place = device_named(device)
    bf16 = use_bf16(precision, place)
    plugin = Precision()
    if bf16:
        plugin = MixedPrecision("bf16-mixed", place.type)
    elif precision == "fp64":
        plugin = DoublePrecision()
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1:
        return Fabric(accelerator=place.type, devices=1, plugins=[plugin]), bf16
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    where = {"accelerator": place.type, "devices": here, "num_nodes": processes // here}
    fabric = Fabric(strategy="ddp", plugins=[plugin], **where)
    fabric.launch()
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())  # else gloo may abort
    return fabric, bf16


def device_named(device: str) -> torch.device:
    """The device of a name; ``"auto"`` is the best that there is.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.

    Raises:
        InputError: For another name, and for a device that is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    here = [name for name, there in (("cuda", cuda), ("mps", mps), ("cpu", True)) if there]
    require_choice("device", device, ("auto", "cpu", "cuda", "mps"))
    if device not in ("auto", *here):
        raise InputError(f"torch finds no {device} on this machine; there is: {', '.join(here)}.")
    return torch.device(here[0] if device == "auto" else device)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether a precision means bf16 autocast on a device.

    Args:
        precision: One of ``PRECISIONS``. ``"auto"`` is bf16 where the device has fast bf16.

        device: Where the computation runs.

    Raises:
        InputError: For another word.
    """
    if require_choice("precision", precision, PRECISIONS) != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """One seed for the random draws of the block, and ``exact_kernels``. The old random state comes back.

    Every process draws alike, so that a DataLoader shuffles alike in all of them.

    Args:
        seed: Of the CPU's generator and of the device's.

        device: Where the block computes.
    """
    with _random_state_kept(device), exact_kernels():
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield


@contextmanager
def exact_kernels() -> Iterator[None]:
    """cuDNN runs and is deterministic, and fp32 is fp32: TF32 is off in the block.

    torch rounds the factors of fp32 convolutions to 10 bits on recent cards (TF32) unless it is told
    otherwise. Here ``precision="fp32"`` is what a run chooses to be compared with a CPU, or with a paper of
    the time before TF32, so it must mean what it says. Nobody loses speed by default: a card that has TF32
    has bf16, which is faster still, and ``"auto"`` chooses it.

    cuDNN does not try several kernels and keep the fastest (``benchmark``), because the choice, and with it
    the bits, would change from run to run. On a machine without CUDA the block computes as it would
    without this.
    """
    matmul = torch.backends.cuda.matmul
    word, found = _matmul_word(), matmul.fp32_precision
    flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
    with torch.backends.cudnn.flags(**flags):  # left out, ``enabled`` would be False
        matmul.allow_tf32 = False
        try:
            yield
        finally:
            if word != "highest":
                torch.set_float32_matmul_precision(word)
            matmul.fp32_precision = found


def _matmul_word() -> str:
    """What ``torch.set_float32_matmul_precision`` was told last.

    torch refuses to say where the user has set precision by its newer switches. Then only these are restored.
    """
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "highest"


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type != "mps":
            yield
            return
        kept = torch.mps.get_rng_state()  # fork_rng cannot: MPS has one state, and torch asks it by device
        try:
            yield
        finally:
            torch.mps.set_rng_state(kept)


def fuse(optimizers: Sequence[Optimizer], device: torch.device, *, capturable: bool = False) -> None:
    """On CUDA, every SGD, Adam and AdamW takes its step in one kernel a parameter group.

    An optimizer whose ``fused`` or ``foreach`` was chosen by the method is left as it is. On other devices
    nothing changes, so that results keep their bits.

    Args:
        optimizers: As ``Method.optimizers`` gives them. Their steps have not begun.

        device: Where their parameters are.

        capturable: Whether a CUDA graph will capture the steps. What Adam counts then stays on the device.
    """
    if device.type != "cuda":
        return
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            unchosen = group.get("fused") is None and group.get("foreach") is None
            if type(optimizer) in FUSED and unchosen and not group["differentiable"]:
                group["fused"] = True
            if capturable and "capturable" in group:
                group["capturable"] = True


class Rates:
    """The learning rates of all parameter groups, moved together by a schedule.

    A rate is a Python number, which a kernel takes with its launch, so that setting it waits for nothing.
    With ``device`` it is a tensor there, float32 and without dimensions, which a CUDA graph reads anew
    in every replay. Fused steps on CUDA read such a tensor too, so that eager steps and those of a graph
    give equal bits.

    Args:
        optimizers: Whose groups are moved. Their rates now are those for factor 1.

        device: Where the rates lie; None keeps Python numbers.
    """

    def __init__(self, optimizers: Sequence[Optimizer], device: torch.device | None = None) -> None:
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.full = [float(group["lr"]) for group in self.groups]
        if device is not None:
            for group, rate in zip(self.groups, self.full, strict=True):
                group["lr"] = torch.full((), rate, device=device)

    def scale(self, factor: float) -> None:
        """Sets every rate to ``factor`` times what it was at first. Nothing waits for the device."""
        for group, rate in zip(self.groups, self.full, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor
