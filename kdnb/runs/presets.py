"""What the presets of the notebooks mean: which networks are trained, on how much, for how long."""

from dataclasses import dataclass, replace

from kdnb.errors import InputError, require_choice
from kdnb.train.schedules import SCHEDULES, Schedule


@dataclass(frozen=True)
class Plan:
    """The choices of one run of a notebook.

    Attributes:
        preset: smoke, quick or paper.

        data: As ``datasets.load`` takes it.

        seed: Of everything random.

        student: Name of the network that learns.

        teacher: Name of the network that is trained as a teacher, where the data bring none.

        labels: Training pictures that the student sees, 0 for all.

        epochs: Of the student's training.

        lr: Learning rate at the start.

        schedule_name: Of ``SCHEDULES``.

        teacher_images: Training pictures of such a teacher, 0 for all.

        teacher_epochs: Epochs of such a teacher.

        batch_size: Images in a batch.
    """

    preset: str
    data: str
    seed: int
    student: str
    teacher: str
    labels: int
    epochs: int
    lr: float
    schedule_name: str
    teacher_images: int
    teacher_epochs: int
    batch_size: int = 64

    @property
    def schedule(self) -> Schedule:
        return SCHEDULES[self.schedule_name]

    def __str__(self) -> str:
        shown = f"{self.labels:,} labelled" if self.labels else "all"
        return (
            f"{self.preset}: {self.student} learns from {shown} pictures of {self.data} for "
            f"{self.epochs} epochs, seed {self.seed}; teacher {self.teacher}"
        )


_SMALL = {"student": "resnet8", "teacher": "resnet20"}
# The task of data/studies/task.toml. Students of recorded studies have the rates that their searches chose.
# This one is for all others.
_STEADY = {"lr": 0.1, "schedule_name": "warm-cosine", "batch_size": 16}
_FIRST_EDITION = {"lr": 0.2, "schedule_name": "cosine", "batch_size": 64}  # of the runs on shapes-v1
_PRESETS = {
    "smoke": {**_SMALL, **_STEADY, "labels": 96, "epochs": 2, "teacher_images": 96, "teacher_epochs": 1},
    "quick": {**_SMALL, **_STEADY, "labels": 500, "epochs": 80, "teacher_images": 5000, "teacher_epochs": 20},
    "paper": {  # the CRD benchmark: methods/README.md, section Schedules
        "student": "resnet20",
        "teacher": "resnet56",
        "labels": 0,
        "epochs": 240,
        "lr": 0.05,
        "schedule_name": "benchmark",
        "teacher_images": 0,
        "teacher_epochs": 240,
    },
}


def plan(preset: str, data: str, seed: int, *, labels: int = 0, epochs: int = 0) -> Plan:
    """The plan of a preset.

    Args:
        preset: smoke, quick or paper.

        data: As ``datasets.load`` takes it.

        seed: Of everything random.

        labels: Above 0 it replaces the preset's.

        epochs: Above 0 it replaces the preset's.

    Raises:
        InputError: For an unknown preset or a negative number.
    """
    require_choice("preset", preset, _PRESETS)
    for name, value in (("labels", labels), ("epochs", epochs)):
        if value < 0:
            raise InputError(f"{name} must be 0 (the preset's) or more, found {value}.")
    chosen = Plan(preset, data, seed, **_PRESETS[preset])
    if data == "shapes-v1" and preset != "paper":
        chosen = replace(chosen, **_FIRST_EDITION)
    return replace(chosen, labels=labels or chosen.labels, epochs=epochs or chosen.epochs)
