"""The reference values: what official implementations gave in float64 on random inputs."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures"


class Reference:
    """One file of reference values as float64 tensors: ``reference["in/student0"]``."""

    def __init__(self, name: str) -> None:
        self.arrays = np.load(FIXTURES / f"{name}.npz")

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays[key]))

    def all(self, prefix: str) -> list[Tensor]:
        """``prefix0``, ``prefix1``, ... as fresh leaves."""
        keys = sorted(key for key in self.arrays.files if key.startswith(prefix))
        return [self[key].clone().requires_grad_() for key in keys]

    def agrees(self, found: Tensor, key: str) -> None:
        torch.testing.assert_close(found.detach(), self[key], rtol=1e-9, atol=1e-14)


def wave(shape: tuple[int, ...], a: float, b: float, scale: float = 1.0) -> Tensor:
    """scale sin(a n + b) in float64, n the place in memory: S(shape; a, b, scale) of the fact sheet."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return scale * torch.sin(a * index + b).reshape(shape)
