"""The machine: device, precision, determinism and several processes, by Lightning Fabric."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import DoublePrecision, MixedPrecision, Precision

from kdnb.errors import InputError, require_choice

PRECISIONS = ("auto", "fp32", "bf16", "fp64")


def fabric_for(device: str, precision: str) -> tuple[Fabric, bool]:
    """Fabric for this process, or for all that torchrun started; whether it computes in bf16."""
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
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    here = [name for name, there in (("cuda", cuda), ("mps", mps), ("cpu", True)) if there]
    require_choice("device", device, ("auto", "cpu", "cuda", "mps"))
    if device not in ("auto", *here):
        raise InputError(f"torch finds no {device} on this machine; there is: {', '.join(here)}.")
    return torch.device(here[0] if device == "auto" else device)


def use_bf16(precision: str, device: torch.device) -> bool:
    if require_choice("precision", precision, PRECISIONS) != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """One seed for the random draws inside, deterministic kernels, and the old state afterwards.

    Every process draws alike, so that a DataLoader shuffles alike in all of them.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.backends.cudnn.flags(deterministic=True):
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield
