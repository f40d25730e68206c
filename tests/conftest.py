"""Small things that many tests need.

Each of several processes reads this, and so does the one that only hands out the tests: what takes seconds to
import is imported where it is used.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_course import PARAMETERS, make_notebook

if TYPE_CHECKING:
    from torch import Tensor

    from kdnb.runs.spec import Spec

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests that
# interrupt a child would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def batch() -> tuple["Tensor", "Tensor"]:
    """Eight 16 x 16 images of ten classes, float32."""
    import torch

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


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of two notebooks in place of the real one."""
    monkeypatch.setattr("kdnb.paths.PROJECT", tmp_path)
    make_notebook(tmp_path / "notebooks/00_start_here.ipynb", "print(preset, seed)")
    typed = PARAMETERS + "\nlr: float = 0.1\nshow: bool = False\nguess = 3"
    make_notebook(tmp_path / "notebooks/04_semckd.ipynb", "print(lr)", parameters=typed)
    return tmp_path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    from small_runs import make_pictures

    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def spec(pictures) -> "Spec":
    from kdnb.runs.spec import Spec

    options = {"size": 8, "pad": 1, "epochs": 3, "batch_size": 8, "seed": 1}
    return Spec("labels-only", data=str(pictures), **options)


@pytest.fixture(scope="session")
def whole(spec, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted. Tests read it and leave it alone."""
    from kdnb.runs.running import run

    out = tmp_path_factory.mktemp("whole")
    run(spec, out=out)
    return out / spec.name
