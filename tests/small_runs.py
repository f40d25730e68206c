"""A run of seconds, on pictures that can be learned, and how two of its folders are compared."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from kdnb.runs.spec import Spec


def make_pictures(root: Path, names: tuple[str, ...] = ("left", "right"), count: int = 20) -> Path:
    """A folder of 8 x 8 pictures whose classes differ in brightness, and so can be learned."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(60 * number, 120 + 60 * number, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def make_noisy_pictures(root: Path, shape_of: Callable[[int], tuple[int, int, int]]) -> Path:
    """A folder of forty noisy pictures of two classes.

    Args:
        root: The folder.

        shape_of: The shape of a picture's pixels by its number.
    """
    generator = np.random.default_rng(0)
    for number in range(40):
        file = root / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, shape_of(number), dtype=np.uint8)).save(file)
    return root


def assert_same_result(folder: Path, expected: Path) -> None:
    name = "student.safetensors"
    assert (folder / name).read_bytes() == (expected / name).read_bytes()
    histories = [pd.read_csv(path / "history.csv") for path in (folder, expected)]
    pd.testing.assert_frame_equal(*[table.drop(columns="seconds") for table in histories])
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def words_of(spec: Spec, out: Path) -> list[str]:
    words = [spec.method]
    for name in ("data", "size", "pad", "epochs", "batch_size", "seed"):
        words += [f"--{name.replace('_', '-')}", str(getattr(spec, name))]
    return [*words, "--out", str(out)]
