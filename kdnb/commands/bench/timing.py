"""What timing is made of: noise to train on, the plain loop to compare with, a clock that waits."""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import nn

from kdnb.datasets import Augmentation, Batches
from kdnb.seeds import derived_seed


def matmul_rate(device: torch.device, bf16: bool, *, size: int = 2048) -> float:
    """Operations a second in one large matrix product."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / seconds(partial(torch.mm, a, b))


def noise(count: int, batch_size: int) -> Batches:
    """``count`` images of random pixels with random labels of 100 classes."""
    generator = torch.Generator().manual_seed(derived_seed("bench"))
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 100, (count,), generator=generator)
    augmentation = Augmentation()
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return Batches(images, labels, batch_size, mean, std, True, augmentation)


def plain_steps(net: nn.Module, batches: Batches) -> None:
    """The loop that anyone would write first."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    net.train()
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(images.contiguous()), labels).backward()
        optimizer.step()


def exhaust(batches: Batches, epoch: int) -> None:
    """Makes the batches of one epoch, and no more."""
    for _ in batches.epoch(epoch):
        pass


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes, all of it: an accelerator of any kind is waited for.

    Args:
        work: What is timed.
    """
    _wait()
    start = perf_counter()
    work()
    _wait()
    return perf_counter() - start


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
