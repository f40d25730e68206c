"""What the notebooks' presets mean: how much to train, of what, at the default and elsewhere."""

from dataclasses import dataclass, replace

from kdnb.errors import InputError, require_choice
from kdnb.train.schedules import SCHEDULES, Schedule


@dataclass(frozen=True)
class Plan:
    """The choices of one notebook run.

    labels: training pictures the student sees, 0 for all. teacher_images, teacher_epochs: for data
    that bring no teacher; 0 images is all.
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


# lr: the best of 0.1, 0.2, 0.3 for the student of labels alone; the distilled one hardly minds.
_SMALL = {"student": "resnet8", "teacher": "resnet20", "lr": 0.2, "schedule_name": "cosine"}
_PRESETS = {
    "smoke": {**_SMALL, "labels": 96, "epochs": 2, "teacher_images": 96, "teacher_epochs": 1},
    "quick": {**_SMALL, "labels": 500, "epochs": 80, "teacher_images": 5000, "teacher_epochs": 20},
    "paper": {  # the CRD benchmark: methods.md 9
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
    """The plan of a preset; ``labels`` and ``epochs`` above 0 replace the preset's.

    Raises InputError for an unknown preset or a negative number.
    """
    require_choice("preset", preset, _PRESETS)
    for name, value in (("labels", labels), ("epochs", epochs)):
        if value < 0:
            raise InputError(f"{name} must be 0 (the preset's) or more, found {value}.")
    chosen = Plan(preset, data, seed, **_PRESETS[preset])
    return replace(chosen, labels=labels or chosen.labels, epochs=epochs or chosen.epochs)
