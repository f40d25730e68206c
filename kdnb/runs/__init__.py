"""A ``Spec`` gives a ``Record``: train what it says, keep it, find it again, and compare many of them."""

from kdnb.runs.checkpoints import Saved, leave_networks, load_network, save_network
from kdnb.runs.options import method_options
from kdnb.runs.presets import Plan, plan
from kdnb.runs.records import Record, compared, read, table
from kdnb.runs.running import run
from kdnb.runs.spec import Spec, with_options
from kdnb.runs.teachers import fit_teacher, shapes_teacher, teacher_for

__all__ = [
    "Plan",
    "Record",
    "Saved",
    "Spec",
    "compared",
    "fit_teacher",
    "leave_networks",
    "load_network",
    "method_options",
    "plan",
    "read",
    "run",
    "save_network",
    "shapes_teacher",
    "table",
    "teacher_for",
    "with_options",
]
