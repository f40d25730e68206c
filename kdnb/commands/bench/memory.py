"""``kdnb bench memory``: what a folder of pictures fills of the memory, at several numbers of pictures."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil

from kdnb.commands.bench.data import BATCH, CACHED, SIDE, STREAMED, make_folder
from kdnb.datasets import image_folder
from kdnb.errors import InputError

PLENTY = 10**12  # bytes
WAYS = {"memory": (CACHED, PLENTY), "cache": (CACHED, 0), "stream": (STREAMED, 0)}  # pixels, budget
STREAMED_BATCHES = 30  # memory does not depend on how many are shown


def memory_rows(pictures: Sequence[int], *, side: int = SIDE) -> Iterator[dict[str, float | str]]:
    """Each way to hold a folder, in a process of its own that loads it and makes an epoch of batches.

    Of a stream 30 batches are made.

    Args:
        pictures: Numbers of pictures, ascending.

        side: Height and width of the files in pixels.

    Yields:
        Megabytes: ``set_mb`` is the decoded set; ``own_mb`` is the peak of what the process and its workers
        fill beyond the imports, pages that they share counted once; ``mapped_mb`` is the peak of pages of
        files, which the system can take back.

    Raises:
        InputError: Elsewhere than on Linux, which tells the two kinds of pages apart.
    """
    if sys.platform != "linux":
        raise InputError("kdnb bench memory reads what Linux tells of a process; this is another system.")
    with tempfile.TemporaryDirectory(prefix="kdnb-bench-") as temporary:
        folder, made = Path(temporary) / "pictures", 0
        for number in pictures:
            make_folder(folder, number, first=made, side=side)
            made = number
            for way, (size, budget) in WAYS.items():
                words = [sys.executable, "-m", __name__, str(folder), str(size), str(budget)]
                done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
                found = json.loads(done.stdout)
                decoded = number * size * size * 3 / 1e6
                yield {"held": f"{way}, {number} of {size} pixels", "set_mb": decoded} | found


def measure(folder: Path, size: int, budget: int) -> dict[str, float]:
    """Loads a folder in this process, makes batches, and looks at the memory after each.

    Args:
        folder: Of pictures.

        size: Height and width that they are brought to.

        budget: Bytes that they may fill.

    Returns:
        ``own_mb`` and ``mapped_mb``, as ``memory_rows`` says.
    """
    before = _filled()
    peaks = [before]
    data = image_folder(folder, size=size, cache=folder.parent / "cache", memory=budget)
    peaks.append(_filled())
    data.fingerprint()
    batches = data.train_batches(BATCH).epoch(0)
    for _ in islice(batches, STREAMED_BATCHES) if data.loading == "stream" else batches:
        peaks.append(_filled())
    own, mapped = (max(peak[kind] for peak in peaks) - before[kind] for kind in range(2))
    return {"own_mb": own / 1e6, "mapped_mb": mapped / 1e6}


def _filled() -> tuple[int, int]:
    """Bytes that this process and its workers fill themselves, and bytes of pages of files, by Linux."""
    this = psutil.Process()
    own, mapped = 0, 0
    for process in (this, *this.children()):
        with suppress(OSError):  # a worker that has just ended
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
            kilobytes = {name: int(number.split()[0]) for name, number in (line.split(":") for line in lines)}
            own += 1024 * (kilobytes["Pss_Anon"] + kilobytes["Pss_Shmem"])
            mapped += 1024 * kilobytes["Pss_File"]
    return own, mapped


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
