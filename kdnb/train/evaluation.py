"""What a trained method, or a plain network, answers on a part of a data set."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdnb.datasets.batches import Batch, Batches
from kdnb.errors import InputError
from kdnb.functional import correct
from kdnb.method import Method, evaluating
from kdnb.train.hardware import exact_kernels, use_bf16
from kdnb.train.threads import on_own_cores

Loader = Batches | Iterable[Batch | tuple[Tensor, Tensor]]  # read once, from the beginning to the end
AT_ONCE = 2048 * 32 * 32  # pixel positions that a GPU evaluates in one batch


def evaluate(net: nn.Module, batches: Loader, *, precision: str = "auto") -> dict[str, float]:
    """Top-1 accuracy in percent, by learner.

    Nothing is learned, and every module keeps the mode it had. On a GPU the right answers are counted there
    and read once, at the end, and ``Batches`` that are not augmented are shown many images at a time: in eval
    mode an image's answer does not depend on the others, but for the rounding of other kernels.

    Args:
        net: A ``Method``, of which every entry of ``outputs`` is evaluated, or any module that maps images
            (B, 3, H, W) to logits (B, K).

        batches: ``Batches``, or anything that yields ``Batch`` objects or pairs of images and labels, such as
            a DataLoader.

        precision: As for ``train``.

    Returns:
        An accuracy for each output of a method, or ``{"network": accuracy}`` for another module. A method
        with a ``group`` gives one more, ``"union"``: the images that at least one of the group answers right,
        which no single network reaches.

    Raises:
        InputError: For an unknown precision, or no images.

    Example:
        >>> from torch import nn
        >>> images, labels = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
        >>> evaluate(nn.Sequential(nn.Flatten(), nn.Linear(48, 1)), [(images, labels)], precision="fp32")
        {'network': 50.0}
    """
    like = next(net.parameters(), torch.empty(()))
    bf16 = use_bf16(precision, like.device)
    outputs = net.outputs if isinstance(net, Method) else lambda x: {"network": net(x)}
    group = net.group if isinstance(net, Method) else ()
    right: dict[str, Tensor] = {}
    count = 0
    autocast = torch.autocast(like.device.type, torch.bfloat16, enabled=bf16)
    with evaluating(net), torch.inference_mode(), exact_kernels(), autocast:
        for images, labels in on_own_cores(_placed(batches, like.device), like.device):
            images, labels = images.to(like, non_blocking=True), labels.to(like.device, non_blocking=True)
            count += len(labels)
            hits = {name: correct(logits, labels) for name, logits in outputs(images).items()}
            if group:
                hits["union"] = torch.stack([hits[name] for name in group]).any(0)
            for name, hit in hits.items():
                right[name] = right.get(name, 0) + hit.sum()
        if not count:
            raise InputError("The batches are empty: there is nothing to evaluate on.")
        totals = torch.stack(list(right.values())).tolist()  # the only wait for the device
    return {name: 100 * total / count for name, total in zip(right, totals, strict=True)}


def logits_of(net: nn.Module, batches: Loader) -> Tensor:
    """All logits of a network in eval mode.

    Args:
        net: Maps images (B, 3, H, W) to logits (B, K).

        batches: As for ``evaluate``; labels are not read.

    Returns:
        (N, K) in the order of ``batches``, float32 on the CPU.
    """
    device = next(net.parameters(), torch.empty(())).device
    with evaluating(net), torch.no_grad(), exact_kernels():
        shown = _placed(batches, device)
        return torch.cat([net(images.to(device, non_blocking=True)).float() for images, _ in shown]).cpu()


def _placed(batches: Loader, device: torch.device) -> Loader:
    """``Batches`` on the device; on a GPU as many images at a time as ``AT_ONCE`` allows.

    Batches that are augmented, or that drop an incomplete last one, keep their size: with another they would
    show other images.
    """
    if not isinstance(batches, Batches):
        return batches
    batches = batches.to(device)
    if device.type != "cuda" or batches.augmentation is not None or batches.drop_last:
        return batches
    height, width = batches.images.shape[1:3]
    return replace(batches, batch_size=max(batches.batch_size, AT_ONCE // (height * width)))
