"""Grad-CAM through the grad-cam package, behind one door that leaves the network as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from kdnb.errors import InputError, require_choice

CHUNK = 250  # images a pass


def grad_cam(
    net: nn.Module, images: Tensor, classes: Tensor | Sequence[int] | None = None, *, layer: str | nn.Module
) -> Tensor:
    """Where ``layer`` has evidence for ``classes``: images (B, 3, H, W) -> (B, H, W), 0 to 1.

    classes: (B,), one for each image; None asks for what the network predicts. layer: the path of a
    module, or the module itself, whose output is a map (B, C, h, w); in our networks "stages.2" is
    the third stage. The network may be frozen; it works in eval mode, and its modes, gradients
    and flags, as well as the global random state, are as before when the call ends.

    Each map is stretched from its own minimum to its own maximum, so that magnitudes cannot be
    compared between images or networks: compare places. A map without positive evidence is zeros.

    Raises InputError for an unknown layer, one that does not run exactly once, whose output is not a
    map or on which the logits do not depend; for a network that returns anything but logits (B, K);
    for classes that do not fit.
    Source: Selvaraju et al., Grad-CAM, 2017, eq. 1 and 2.
    """
    module = _module(net, layer)
    if classes is not None and len(classes) != len(images):
        raise InputError(f"One class for each image: found {len(classes)} classes, {len(images)} images.")
    images = images.detach().to(next(net.parameters()))
    asked = [None] * len(images) if classes is None else torch.as_tensor(classes).tolist()
    observed = _Observed(net)
    with _as_found(net, images.device), module.register_forward_hook(observed.through_probe):
        chunks = range(0, len(images), CHUNK)
        maps = [_maps(observed, images[at : at + CHUNK], asked[at : at + CHUNK]) for at in chunks]
    return torch.cat(maps).to(images.device)


class _Observed(nn.Module):
    """``net`` that gives logits and nothing else, with a probe through which the layer's map runs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.probe, self.runs = net, nn.Identity(), 0

    def through_probe(self, module: nn.Module, inputs: tuple, output: object) -> Tensor:
        """A hook: the layer hands on a clone of what the probe sees, so that nothing in-place behind
        it, such as torchvision's ReLUs or ``out += identity``, can change the map to be explained."""
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise InputError(f"Grad-CAM needs a layer whose output is (B, C, h, w), found {_kind(output)}.")
        self.runs += 1
        return self.probe(output).clone()

    def forward(self, images: Tensor) -> Tensor:
        self.runs = 0
        logits = self.net(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise InputError(
                f"Grad-CAM explains logits (B, K), but the network returns {_kind(logits)}; wrap it in a "
                "module whose forward returns the logits alone, for instance net(images)[0]."
            )
        if self.runs != 1:
            raise InputError(
                f"The layer ran {self.runs} times in one pass; choose one that runs once, "
                "such as the whole block around it."
            )
        return logits


def _maps(observed: _Observed, images: Tensor, classes: Sequence[int | None]) -> Tensor:
    # Imported here: it takes seconds, and most notebooks do without.
    from pytorch_grad_cam import GradCAM

    class Checked(GradCAM):
        def get_cam_weights(self, *arguments):
            if arguments[-1] is None:  # no gradient came back
                raise InputError("The logits do not depend on this layer, so there is nothing to explain.")
            return super().get_cam_weights(*arguments)

    # Weights may be frozen, so gradients start at the images; a clone, as networks may normalise in place.
    images = images.clone().requires_grad_().clone()
    cam = Checked(observed, [observed.probe])
    try:
        return torch.from_numpy(cam(images, [partial(_logit, number=number) for number in classes]))
    finally:
        cam.activations_and_grads.release()


def _logit(logits: Tensor, number: int | None) -> Tensor:
    if number is None:
        return logits.max()
    if not 0 <= number < len(logits):
        raise InputError(f"Class number {number} is not among the {len(logits)} classes of the network.")
    return logits[number]


@contextmanager
def _as_found(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Gradients on, but none for the weights, while the block runs; then all modes, flags, gradients
    (the same tensors) and random states are those found."""
    modes = {module: module.training for module in net.modules()}
    weights = [(weight, weight.requires_grad, weight.grad) for weight in net.parameters()]
    random = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    precise = torch.autocast(device.type, enabled=False)
    with random, precise, torch.inference_mode(False), torch.enable_grad():
        try:
            for weight, _, _ in weights:
                weight.requires_grad_(False)
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for weight, learns, gradient in weights:
                weight.requires_grad_(learns)
                weight.grad = gradient


def _module(net: nn.Module, layer: str | nn.Module) -> nn.Module:
    modules = dict(net.named_modules())
    if isinstance(layer, str):
        return modules[require_choice("module path", layer, [path for path in modules if path])]
    if layer not in modules.values():
        raise InputError(f"This {type(layer).__name__} is not part of the network; give a layer of it.")
    return layer


def _kind(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
