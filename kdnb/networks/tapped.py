"""Turns a model from elsewhere, such as torchvision or your own code, into a ``Network``."""

import copy

import torch
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks.features import Features, Network
from kdnb.taps import tap


class Tapped(Network):
    """A ``Network`` around a model whose modules are named as stages.

    The model must end in a linear layer, and the input of that layer is the embedding. The last stage must
    be the map that the model averages to the embedding. If a ReLU comes before the average, the last stage
    is the output of that ReLU. The stem is the output of the first stage.

    The wrapper uses the weights of the model itself. Names in its ``state_dict`` start with ``model.``.

    Args:
        model: The model. It takes images (B, 3, H, W) and returns logits (B, K).

        *stages: Paths of the modules whose outputs are the maps, from shallow to deep.

        size: The height and width of the images in pixels. It is used to find out the shapes, on
            PyTorch's meta device, so that nothing is computed.

    Raises:
        InputError: If a path does not exist (the message names the nearest one), if the output of a stage
            is not a map (B, C, H, W), if the model does not end in a linear layer, if a stage is not run in
            evaluation, or if the last stage has another number of channels than the linear layer takes.

    Example:
        >>> from torchvision.models import resnet18
        >>> teacher = Tapped(resnet18(num_classes=10), "layer1", "layer2", "layer3", "layer4")
        >>> teacher.channels, teacher.reductions, teacher.classes
        ((64, 128, 256, 512), (4, 8, 16, 32), 10)
    """

    def __init__(self, model: nn.Module, *stages: str, size: int = 32) -> None:
        if not stages:
            raise InputError('Name at least one stage by its path, such as "layer4".')
        super().__init__()
        self.model, self.stage_paths = model, stages
        self.head_path = _last_linear(model)
        shapes = _shapes(model, (*stages, self.head_path), size)
        for path in stages:
            if len(shapes[path]) != 4:
                found = tuple(shapes[path])
                raise InputError(f"The module {path!r} gives {found}; a stage gives (B, C, H, W).")
        if shapes[stages[-1]][1] != self.head.in_features:
            raise InputError(
                f"The last stage, {stages[-1]!r}, has {shapes[stages[-1]][1]} channels, but the head "
                f"{self.head_path!r} takes {self.head.in_features}. Name the module whose map is "
                "averaged for the head as the last stage."
            )
        self.channels = tuple(shapes[path][1] for path in stages)
        self.reductions = tuple(round(size / shapes[path][2]) for path in stages)
        self.classes = shapes[self.head_path][1]

    @property
    def head(self) -> nn.Linear:
        """The linear layer at the end of the model."""
        return self.model.get_submodule(self.head_path)

    def features(self, images: Tensor) -> Features:
        received: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda head, inputs: received.append(inputs[0]))
        try:
            with tap(self.model, *self.stage_paths) as seen:
                logits = self.model(images)
        finally:
            handle.remove()
        maps = tuple(seen[path] for path in self.stage_paths)
        return Features(maps[0], maps, received[-1], logits, final=maps[-1])

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def _last_linear(model: nn.Module) -> str:
    """The path of the linear layer with which the model ends."""
    leaves = [(path, m) for path, m in model.named_modules() if path and not list(m.children())]
    linear = [path for path, module in leaves if isinstance(module, nn.Linear)]
    if not linear or linear[-1] != leaves[-1][0]:
        path, last = leaves[-1] if leaves else ("", model)
        raise InputError(
            f"A {type(model).__name__} ends in {path!r}, a {type(last).__name__}; what is needed is a "
            "linear layer on pooled features as the last module."
        )
    return linear[-1]


def _shapes(model: nn.Module, paths: tuple[str, ...], size: int) -> dict[str, torch.Size]:
    """The shapes of the outputs of modules for one image, computed on the meta device."""
    on_meta = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), tap(on_meta, *paths) as seen:
        on_meta(torch.empty(1, 3, size, size, device="meta"))
    if idle := [path for path in paths if path not in seen]:
        raise InputError(f"The module {idle[0]!r} takes no part in evaluation; name one that does.")
    return {path: seen[path].shape for path in paths}
