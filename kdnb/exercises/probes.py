"""Tools for probes.

A probe runs a function on fixed inputs and returns the tensors by which an exercise judges it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NotAttempted(Exception):
    """The reader's function still returns ``...``, as the stub in the notebook does."""


class AutogradUsed(Exception):
    """The reader's function lets PyTorch differentiate, where the derivative is to be written out."""


def normal(seed: int, *shape: int, std: float = 1.0) -> Tensor:
    """Returns normal random numbers that are the same on every call.

    Args:
        seed: Seed of the generator.

        shape: Shape of the tensor.

        std: Standard deviation of the numbers. Their mean is 0.

    Returns:
        A float64 tensor of the given shape.
    """
    generator = torch.Generator().manual_seed(seed)
    return std * torch.randn(*shape, generator=generator, dtype=torch.float64)


def tensor_from(value: object) -> Tensor:
    """Converts what the reader's function returned to a tensor.

    Args:
        value: The returned value: a tensor, a number, or nested sequences of numbers.

    Returns:
        The tensor itself, or a float64 tensor of the numbers.

    Raises:
        NotAttempted: If the value is ``...``, so that nothing was written yet.
        TypeError: If the value cannot be converted to a tensor.
    """
    if value is ...:
        raise NotAttempted
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"expected a tensor, found {type(value).__name__}") from None


def value_and_gradients(function: Callable, *inputs: Tensor) -> list[Tensor]:
    """Runs a function and differentiates its result with respect to every input.

    A function that detaches an input returns the right value but the wrong gradient. Comparing both
    tells it from the right one.

    Args:
        function: A function of the inputs.

        inputs: Tensors of any shapes.

    Returns:
        The value, then one gradient for each input, each of its input's shape. A gradient is zero where
        the value does not depend on the input.
    """
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    value = tensor_from(function(*leaves))
    if not value.requires_grad:
        return [value, *map(torch.zeros_like, inputs)]
    scale = torch.linspace(1, 2, value.numel(), dtype=torch.float64).reshape(value.shape)
    found = torch.autograd.grad((scale * value).sum(), leaves, allow_unused=True, materialize_grads=True)
    return [value.detach(), *found]


@contextmanager
def without_autograd() -> Iterator[None]:
    """Forbids PyTorch's automatic differentiation while the block runs.

    Yields:
        Nothing.

    Raises:
        AutogradUsed: If the block asks for a gradient.
    """
    try:
        with torch.no_grad(), _GradientsForbidden():
            yield
    except RuntimeError as error:
        if "grad" in str(error):
            raise AutogradUsed from error
        raise


class _GradientsForbidden(TorchFunctionMode):
    """Raises AutogradUsed where a tensor is told that it needs a gradient."""

    ASKING = (Tensor.requires_grad_, Tensor.requires_grad.__set__, Tensor.backward)

    def __torch_function__(
        self, function: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ):
        if function in self.ASKING:
            raise AutogradUsed
        return function(*args, **(kwargs or {}))


def same_type(result: Tensor, given: Tensor) -> Tensor:
    """A tensor by which a probe judges whether a result has the number type of its input.

    Args:
        result: What the reader's function returned.

        given: Its input.

    Returns:
        One number, 1 if the types are equal and 0 if not.
    """
    return torch.tensor([float(result.dtype == given.dtype)])
