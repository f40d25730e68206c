"""What a trained method, or a plain network, answers on a part of a data set."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kdnb.datasets.batches import Batch, Batches
from kdnb.errors import InputError
from kdnb.functional import correct
from kdnb.method import Method, evaluating
from kdnb.train.hardware import use_bf16
from kdnb.train.threads import on_own_cores

Loader = Batches | Iterable[Batch | tuple[Tensor, Tensor]]


def evaluate(method: nn.Module, batches: Loader, *, precision: str = "auto") -> dict[str, float]:
    """Top-1 accuracy in percent, by learner: every entry of ``method.outputs``.

    A plain network gives one entry, ``"network"``; a method with a ``group`` gives one more, ``"union"``:
    the images that at least one of the group answers right, which no single network reaches. Modes
    are restored; nothing is learned.
    Raises InputError for an unknown precision, or no images.
    """
    weight = next(method.parameters())
    bf16 = use_bf16(precision, weight.device)
    outputs = method.outputs if isinstance(method, Method) else lambda x: {"network": method(x)}
    group = getattr(method, "group", ())
    if isinstance(batches, Batches):
        batches = batches.to(weight.device)
    right, count = {}, 0
    autocast = torch.autocast(weight.device.type, torch.bfloat16, enabled=bf16)
    with evaluating(method), torch.inference_mode(), autocast:
        for images, labels in on_own_cores(batches, weight.device):
            labels = labels.to(weight.device)
            count += len(labels)
            hits = {name: correct(logits, labels) for name, logits in outputs(images.to(weight)).items()}
            if group:
                hits["union"] = torch.stack([hits[name] for name in group]).any(0)
            for name, hit in hits.items():
                right[name] = right.get(name, 0) + hit.sum()
    if not count:
        raise InputError("The batches are empty: there is nothing to evaluate on.")
    return {name: 100 * int(total) / count for name, total in right.items()}


def logits_of(net: nn.Module, batches: Loader) -> Tensor:
    """All logits (N, K) of a network in eval mode, in the order of ``batches``, float32 on the CPU."""
    device = next(net.parameters()).device
    with evaluating(net), torch.no_grad():
        return torch.cat([net(images.to(device)).float().cpu() for images, _ in batches])
