"""Reads the outputs of modules inside a model, also of a model from elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from kdnb.errors import InputError, require_choice


@contextmanager
def tap(model: nn.Module, *paths: str) -> Iterator[dict[str, Tensor]]:
    """Records the outputs of modules while a ``with`` block runs.

    Every forward pass replaces the outputs of the pass before. What is kept is a clone, so that a layer
    that works in place cannot change it later. Gradients flow through the clone. The function does not
    change the mode of the model, and its hooks are removed when the block ends.

    Args:
        model: The model.

        *paths: The paths of the modules, as ``named_modules`` gives them.

    Yields:
        A dictionary from path to output. It is empty until the model runs.

    Raises:
        InputError: If the model does not have a path (the message names the nearest one), or if the output
            of a module is not a tensor.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten())
        >>> with tap(model, "0", "1") as outputs:
        ...     result = model(torch.zeros(2, 3, 4, 4))
        >>> outputs["1"].shape
        torch.Size([2, 8, 4, 4])
    """
    modules = dict(model.named_modules())
    for path in paths:
        require_choice("module path", path, [name for name in modules if name])
    seen: dict[str, Tensor] = {}

    def keep(path: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if not isinstance(output, Tensor):
                raise InputError(
                    f"The module {path!r} returns a {type(output).__name__}, not a tensor; "
                    "tap one of its submodules instead."
                )
            seen[path] = output.clone()

        return hook

    handles = [modules[path].register_forward_hook(keep(path)) for path in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
