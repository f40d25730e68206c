"""Grad-CAM with the grad-cam package, in a function that leaves the network unchanged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from kdnb.errors import InputError, require_choice

IMAGES_PER_PASS = 250


def grad_cam(
    net: nn.Module,
    images: Tensor,
    classes: Tensor | Sequence[int] | None = None,
    *,
    layer: str | nn.Module,
    stretched: bool = True,
) -> Tensor:
    """Where in the images a layer has positive evidence for a class.

    The network runs in eval mode and may be frozen. After the call its modes, its gradients, their flags
    and the global random state are what they were before.

    Args:
        net: A network that returns logits (B, K).

        images: The images, (B, 3, H, W).

        classes: A class for each image, (B,). None stands for the class that the network predicts.

        layer: A module, or the path of a module, whose output is a map (B, C, h, w). In the networks of
            kdnb, ``"stages.2"`` is the third stage.

        stretched: Whether to stretch the maps to the size of the images. Otherwise they have the size of the
            layer, and ``placed`` can bring each cell to the centre of its receptive field.

    Returns:
        A map for each image, (B, H, W), or (B, h, w) if it is not stretched. Each is scaled from its own
        minimum to its own maximum, 0 to 1, so places may be compared between images and networks, but
        values may not. A map without positive evidence is zero everywhere.

    Raises:
        InputError: If the layer is unknown, does not run exactly once, has an output that is not a map, or
            does not influence the logits; if the network returns something else than logits (B, K); or if
            the classes do not fit the images or the network.

    Source:
        Selvaraju et al., Grad-CAM, 2017, equations 1 and 2.
    """
    module = _module(net, layer)
    if classes is not None and len(classes) != len(images):
        raise InputError(f"One class for each image: found {len(classes)} classes, {len(images)} images.")
    images = images.detach().to(next(net.parameters()))
    asked = [None] * len(images) if classes is None else torch.as_tensor(classes).tolist()
    probed = _ProbedNetwork(net)
    with _restored_afterwards(net, images.device), module.register_forward_hook(probed.through_probe):
        step = IMAGES_PER_PASS
        starts = range(0, len(images), step)
        maps = [_maps(probed, images[at : at + step], asked[at : at + step], stretched) for at in starts]
    return torch.cat(maps).to(images.device)


class _ProbedNetwork(nn.Module):
    """A network whose layer passes its output through ``probe``, an identity that grad-cam observes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.probe, self.runs = net, nn.Identity(), 0

    def through_probe(self, module: nn.Module, inputs: tuple, output: object) -> Tensor:
        """A forward hook that returns a clone of what the probe sees.

        Operations in place that follow the layer, such as torchvision's ReLUs or ``out += identity``, then
        cannot change the map that is explained.

        Args:
            module: The layer. Not used.

            inputs: What the layer reads. Not used.

            output: What the layer gives, which must be a map (B, C, H, W).

        Returns:
            The map that the rest of the network reads.
        """
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


def _maps(probed: _ProbedNetwork, images: Tensor, classes: Sequence[int | None], stretched: bool) -> Tensor:
    # This import takes seconds, and most notebooks do not need it.
    from pytorch_grad_cam import GradCAM

    class Checked(GradCAM):
        def get_cam_weights(self, *arguments):
            if arguments[-1] is None:  # no gradient arrived at the probe
                raise InputError("The logits do not depend on this layer, so there is nothing to explain.")
            return super().get_cam_weights(*arguments)

        def get_target_width_height(self, images):
            return super().get_target_width_height(images) if stretched else None

    # The weights may be frozen, so the images require gradients. The network gets a clone of them, because
    # a network may change its input in place.
    images = images.clone().requires_grad_().clone()
    cam = Checked(probed, [probed.probe])
    try:
        return torch.from_numpy(cam(images, [partial(_logit, number=number) for number in classes]))
    finally:
        cam.activations_and_grads.release()


def _logit(logits: Tensor, number: int | None) -> Tensor:
    """The logit of a class, or the largest one for None."""
    if number is None:
        return logits.max()
    if not 0 <= number < len(logits):
        raise InputError(f"Class number {number} is not among the {len(logits)} classes of the network.")
    return logits[number]


@contextmanager
def _restored_afterwards(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Enables gradients, but not for the weights, and restores modes, flags, gradients and random states.

    The gradients are restored as the same tensors.
    """
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
