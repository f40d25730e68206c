"""Look inside a model we did not write."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from kdnb.errors import InputError, require_choice


@contextmanager
def tap(model: nn.Module, *paths: str) -> Iterator[dict[str, Tensor]]:
    """Records the outputs of submodules while the block runs.

        with tap(model, "layer2", "layer3") as seen:
            logits = model(images)
        seen["layer3"]  # (B, C, H, W), with its graph

    Each pass overwrites the last. What is kept is a clone, so an in-place layer behind it cannot
    change it; the model's mode is never touched, and the taps are gone when the block ends.

    Raises InputError for a path the model does not have, naming the nearest, and when a module's
    output is not a tensor.
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
