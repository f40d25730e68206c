"""One file a paper. A new method is one file here and one line in ``METHODS``."""

from kdnb.method import Method
from kdnb.methods.kd import KD
from kdnb.methods.labels_only import LabelsOnly

__all__ = ["KD", "METHODS", "LabelsOnly"]

METHODS: dict[str, type[Method]] = {"labels-only": LabelsOnly, "kd": KD}
