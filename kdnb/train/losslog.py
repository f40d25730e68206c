"""The loss terms of an epoch, and the watch on them: training stops when one is not finite."""

from collections.abc import Callable
from math import fsum, isfinite

import torch
from torch import Tensor, nn

from kdnb.errors import InputError

CHECK_EVERY = 50  # steps between looks at the losses: each look waits for the device

_REMEDY = "Lower lr or the term's weight; the state saved before this epoch is sound."


class NotFinite(ArithmeticError):
    """A loss term, or a weight that it moved, is infinite or not a number. The message names it."""


class LossLog:
    """The terms of an epoch's steps, averaged over processes.

    The terms stay on the device and are read every CHECK_EVERY steps, so that training stops soon after a
    term is not finite.

    Args:
        average: Gives the mean of a tensor over the processes.

        steps: Taken since training began.
    """

    def __init__(self, average: Callable[[Tensor], Tensor], steps: int) -> None:
        self.average, self.steps = average, steps
        self.unread: list[dict[str, Tensor]] = []
        self.read: dict[str, list[float]] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        """Takes the terms of one step. Another step may have other terms."""
        self.unread.append({name: term.detach() for name, term in terms.items()})
        self.steps += 1
        if len(self.unread) == CHECK_EVERY:
            self._look()

    def means(self) -> dict[str, float]:
        """The mean of every term over the steps that had it.

        Raises:
            InputError: If no step was taken.
            NotFinite: If a term is not finite.
        """
        self._look()
        if not self.read:
            raise InputError("The batches are empty: there is nothing to train on.")
        return {name: fsum(values) / len(values) for name, values in self.read.items()}

    def _look(self) -> None:
        if not self.unread:
            return
        first = self.steps - len(self.unread)
        found = [(step, name) for step, terms in enumerate(self.unread, first) for name in terms]
        values = torch.stack([term for terms in self.unread for term in terms.values()])
        for (step, name), value in zip(found, self.average(values).double().tolist(), strict=True):
            if not isfinite(value):
                raise NotFinite(f"The term {name!r} is not finite at step {step}. {_REMEDY}")
            self.read.setdefault(name, []).append(value)
        self.unread.clear()


def require_finite_weights(method: nn.Module, steps: int) -> None:
    """Checks the weights after the last step of an epoch.

    A finite term can have an infinite gradient, and after the last step no other term would tell.

    Args:
        method: The method whose weights are read.

        steps: Taken since training began, for the message.

    Raises:
        NotFinite: For a weight that is not finite.
    """
    names, weights = zip(*method.named_parameters(), strict=True)
    finite = torch.stack([weight.isfinite().all() for weight in weights]).tolist()  # one wait for all
    for name, sound in zip(names, finite, strict=True):
        if not sound:
            raise NotFinite(f"{name!r} is not finite after {steps} steps. {_REMEDY}")
