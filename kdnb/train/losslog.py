"""The losses of an epoch, and the watch on them: training stops when one is not finite."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdnb.errors import InputError

CHECK_EVERY = 50  # steps between looks at the losses: each look waits for the device

_REMEDY = "Lower lr or the term's weight; the state saved before this epoch is sound."


class NotFinite(ArithmeticError):
    """A loss term, or a weight it moved, is infinite or not a number; the message names it."""


class LossLog:
    """The terms of an epoch's steps, averaged over processes.

    Read from the device every CHECK_EVERY steps, to stop soon after a term is not finite.
    average: of a tensor over the processes. steps: taken since training began.
    """

    def __init__(self, average: Callable[[Tensor], Tensor], steps: int) -> None:
        self.average, self.steps = average, steps
        self.names: list[str] = []
        self.unread: list[Tensor] = []
        self.read: list[Tensor] = []

    def add(self, terms: dict[str, Tensor]) -> None:
        self.names = list(terms)
        self.unread.append(torch.stack([term.detach() for term in terms.values()]))
        self.steps += 1
        if len(self.unread) == CHECK_EVERY:
            self._look()

    def means(self) -> dict[str, float]:
        if self.unread:
            self._look()
        if not self.read:
            raise InputError("The batches are empty: there is nothing to train on.")
        return dict(zip(self.names, torch.cat(self.read).mean(0).tolist(), strict=True))

    def _look(self) -> None:
        values = self.average(torch.stack(self.unread)).cpu().double()  # (steps, terms)
        bad = (~values.isfinite()).nonzero().tolist()
        if bad:
            step, term = bad[0]
            raise NotFinite(
                f"The term {self.names[term]!r} is not finite at step "
                f"{self.steps - len(values) + step}. {_REMEDY}"
            )
        self.read.append(values)
        self.unread.clear()


def require_finite_weights(method: nn.Module, steps: int) -> None:
    """Raises NotFinite for a weight that is not finite.

    A finite term can have an infinite gradient; after the last step no other term would tell.
    """
    for name, weight in method.named_parameters():
        if not weight.isfinite().all():
            raise NotFinite(f"{name!r} is not finite after {steps} steps. {_REMEDY}")
