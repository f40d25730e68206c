"""One file a paper. A new method is one file here and one line in ``METHODS``."""

from kdnb.method import Method
from kdnb.methods.attention_transfer import AttentionTransfer
from kdnb.methods.fitnet import FitNet
from kdnb.methods.kd import KD
from kdnb.methods.labels_only import LabelsOnly
from kdnb.methods.semckd import SemCKD
from kdnb.methods.srrl import SRRL

__all__ = ["KD", "METHODS", "SRRL", "AttentionTransfer", "FitNet", "LabelsOnly", "SemCKD"]

METHODS: dict[str, type[Method]] = {
    "labels-only": LabelsOnly,
    "kd": KD,
    "at": AttentionTransfer,
    "fitnet": FitNet,
    "srrl": SRRL,
    "semckd": SemCKD,
}
