"""Small things that many tests need."""

import signal
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests that
# interrupt a child would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Eight 16 x 16 images of ten classes, float32."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8)


@pytest.fixture
def no_windows() -> Iterator[None]:
    """Figures are drawn without a display, and closed at the end."""
    import matplotlib.pyplot as plt

    backend = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)
