"""Data sets that stay in memory from one run to the next."""

from pathlib import Path

from kdnb.datasets import Dataset
from kdnb.runs import Spec
from kdnb.runs.running import load_data


class LoadedData:
    """Loads the data of runs, and keeps the last data set for the runs after it.

    Args:
        data_root: Where data are downloaded and archives unpacked; None is the course's folder.

        memory: Bytes that decoded pictures may fill; None is half of what is free.
    """

    def __init__(self, data_root: Path | None = None, memory: int | None = None) -> None:
        self._places = data_root, memory
        self._last: tuple[tuple, Dataset] | None = None

    def of(self, spec: Spec) -> Dataset:
        """The data set that a run names.

        Args:
            spec: The run.
        """
        key = (spec.data, spec.size, spec.data_seed, spec.validation)
        if self._last is None or self._last[0] != key:
            self._last = None  # two data sets may not fit in memory
            self._last = key, load_data(spec, *self._places)
        return self._last[1]
