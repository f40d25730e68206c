"""Every method of the package, and ``METHODS`` to find one by name.

A method is one file here, or one package where a file is too small for it. What several methods share is in
``families``. The fact sheet ``README.md`` beside this file states equations, sources of defaults, reported
numbers, and differences. A new method adds a file, a line in ``METHODS``, and a section in the fact sheet.
"""

from kdnb.method import Method
from kdnb.methods.attention_transfer import AttentionTransfer
from kdnb.methods.byot import BYOT
from kdnb.methods.crd import CRD
from kdnb.methods.ddnn import DDNN
from kdnb.methods.dml import DML
from kdnb.methods.ecd import ECD
from kdnb.methods.ffsd import FFSD
from kdnb.methods.fitnet import FitNet
from kdnb.methods.kd import KD
from kdnb.methods.kdcl import KDCL
from kdnb.methods.labels_only import LabelsOnly
from kdnb.methods.one import ONE
from kdnb.methods.semckd import SemCKD
from kdnb.methods.srrl import SRRL

__all__ = [
    "BYOT",
    "CRD",
    "DDNN",
    "DML",
    "ECD",
    "FFSD",
    "KD",
    "KDCL",
    "METHODS",
    "ONE",
    "SRRL",
    "AttentionTransfer",
    "FitNet",
    "LabelsOnly",
    "SemCKD",
]

METHODS: dict[str, type[Method]] = {
    "labels-only": LabelsOnly,
    "kd": KD,
    "at": AttentionTransfer,
    "fitnet": FitNet,
    "srrl": SRRL,
    "semckd": SemCKD,
    "crd": CRD,
    "dml": DML,
    "kdcl": KDCL,
    "one": ONE,
    "ffsd": FFSD,
    "ecd": ECD,
    "byot": BYOT,
    "ddnn": DDNN,
}
