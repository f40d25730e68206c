"""What CRD's memories cost: its step as a multiple of the step of plain distillation."""

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch

from kdnb.commands.bench.timing import assembled, noise, seconds
from kdnb.seeds import derived_seed
from kdnb.train import train


def contrast_steps(
    *,
    student: str = "resnet8x4",
    teacher: str = "resnet32x4",
    images: int = 50_000,
    negatives: int = 16_384,
    batch_size: int = 64,
    steps: int = 4,
    rounds: int = 5,
    device: str = "auto",
) -> Iterator[dict[str, float | str]]:
    """One row: CRD beside KD with the same networks and batches, in rounds that alternate.

    Args:
        student: Name of the student.

        teacher: Name of the teacher.

        images: Rows of each memory.

        negatives: Images that each image is compared with.

        batch_size: Images in a batch.

        steps: Steps in a round.

        rounds: Rounds; the row holds medians over them.

        device: As for ``train``.

    Yields:
        ``ms`` and ``kd_ms`` of a step of CRD and of KD, and their ratio ``over_kd`` with the smallest and
        the largest of the rounds.
    """
    batches = noise(batch_size * steps, batch_size)
    generator = torch.Generator().manual_seed(derived_seed("bench"))
    labels = torch.randint(0, 100, (images,), generator=generator)
    labels[: len(batches.labels)] = batches.labels
    networks = {"student": student, "teacher": teacher}
    crd = assembled("crd", batches, labels=labels, negatives=negatives, **networks)
    kd = assembled("kd", batches, **networks)
    runs = [train(method, batches, epochs=rounds + 1, lr=0.001, device=device) for method in (crd, kd)]
    for run in runs:
        next(run)
    times = [[seconds(partial(next, run)) / steps for run in runs] for _ in range(rounds)]
    ratios = [ours / theirs for ours, theirs in times]
    yield {
        "method": f"crd, {negatives} of {images}",
        "ms": 1000 * median(ours for ours, _ in times),
        "kd_ms": 1000 * median(theirs for _, theirs in times),
        "over_kd": median(ratios),
        "over_kd_low": min(ratios),
        "over_kd_high": max(ratios),
    }
