"""What timing needs: methods and noise to train, a plain loop to compare with, a clock that waits."""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.datasets import Augmentation, Batches
from kdnb.method import Method, Parts
from kdnb.methods import METHODS
from kdnb.networks import build
from kdnb.runs.options import Option
from kdnb.seeds import derived_seed


def matmul_rate(device: torch.device, bf16: bool, *, size: int = 2048) -> float:
    """Operations a second in one large matrix product.

    Args:
        device: Where it is computed.

        bf16: Whether in bf16, else in fp32.

        size: Rows and columns of the matrices.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / seconds(partial(torch.mm, a, b))


def noise(count: int, batch_size: int) -> Batches:
    """Images of random pixels with random labels of 100 classes.

    Args:
        count: Number of images.

        batch_size: Images in a batch.
    """
    generator = torch.Generator().manual_seed(derived_seed("bench"))
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 100, (count,), generator=generator)
    augmentation = Augmentation()
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return Batches(images, labels, batch_size, mean, std, True, augmentation)


def assembled(
    name: str,
    batches: Batches,
    *,
    student: str,
    teacher: str = "",
    labels: Tensor | None = None,
    **options: Option,
) -> Method:
    """A method with fresh networks for 100 classes.

    Args:
        name: Of the method.

        batches: What it will learn from.

        student: Name of every network that learns.

        teacher: Name of the teacher's network, where the method has one.

        labels: Classes of all images that are trained on (N,); None where ``batches`` has them all.

        options: Keyword arguments of the method.
    """
    labels = batches.labels if labels is None else labels
    parts = Parts(
        network=lambda number: build(student, classes=100, seed=number),
        load_teacher=lambda: build(teacher, classes=100),
        batch_size=batches.batch_size,
        labels=labels,
        indices=torch.arange(len(labels)),
        held_out=batches,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("bench"))
        return METHODS[name].assemble(parts, **options)


def plain_steps(net: nn.Module, batches: Batches) -> None:
    """Trains one epoch by the loop that anyone would write first.

    Args:
        net: It is trained in place.

        batches: What it learns from.
    """
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    net.train()
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(images.contiguous()), labels).backward()
        optimizer.step()


def exhaust(batches: Batches, epoch: int) -> None:
    """Makes the batches of one epoch and does nothing with them.

    Args:
        batches: What is made.

        epoch: Number of the epoch.
    """
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
