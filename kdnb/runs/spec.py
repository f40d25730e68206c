"""Spec: every choice that a run's result depends on, checked and hashed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path

from kdnb.datasets.streaming import STREAMED
from kdnb.errors import InputError, require_choice
from kdnb.method import Method
from kdnb.methods import METHODS
from kdnb.networks import plain_name
from kdnb.runs.options import Option, canonical_options, method_options, options_from_words
from kdnb.train import PRECISIONS, SCHEDULES

OWN = ("weight_decay", "momentum", "nesterov", "schedule")  # None: as the method has it
NOT_NEGATIVE = ("labels", "label_noise", "weight_decay", "momentum", "pad")
LEAST = {"epochs": 1, "batch_size": 1} | dict.fromkeys(NOT_NEGATIVE, 0)
# What stands for a data set in the digest. The first edition's "shapes" are shapes-v1 today: their runs keep
# their names, and no run on today's shapes has one of them.
DIGESTED = {"shapes-v1": "shapes", "shapes": "shapes, second version"}
LARGEST = 2**63  # exclusive: what a seed of torch, and an index, can hold


def _setting(default: object, words: str) -> object:
    """A field with a default and with the help text of its option on the command line."""
    return field(default=default, metadata={"help": words})


def _own(words: str) -> object:
    """A field whose default is None, which stands for what the method has."""
    return field(default=None, metadata={"help": words, "default": "the method's own"})


@dataclass(frozen=True, eq=False)
class Spec:
    """One run. Two runs with equal specs on one machine give equal weights, bit for bit.

    Specs are equal when they describe the same run: a default that is spelled out changes nothing, nor does
    2 in place of 2.0.

    Args:
        method: Name of the method, of ``METHODS``.

        data: A name or a path, as ``datasets.load`` takes it.

        student: Name of the network that is trained. None is the method's own choice, most often resnet8.

        teacher: A network file or a run's folder; a run in the same folder of runs is found by its name
            alone. None is the shipped teacher for shapes of 32 pixels, and right for methods without a
            teacher.

        options: The method's keyword arguments. Those that equal a default are dropped.

        labels: Training pictures that the student sees, 0 for all.

        label_noise: Share of those pictures whose label is wrong, drawn at random. The validation and the
            test part keep theirs.

        size: Height and width of the pictures in pixels, as ``datasets.load`` takes it. From 128 on the
            pictures of a folder are decoded anew in every epoch and shown as random resized crops.

        validation: Share of the training pictures that is held out.

        data_seed: Of the splits, and of what ``shapes`` draws.

        epochs: Of training.

        batch_size: Pictures in a batch, over all processes.

        lr: Learning rate at the start.

        weight_decay: None is the method's own, as are None for the next three.

        momentum: Of the method's default optimizer.

        nesterov: Whether its momentum is Nesterov's.

        schedule: Name of the learning-rate schedule.

        flip: Whether pictures are mirrored at random.

        pad: Pixels that are added on every side before a random crop; without effect where pictures are
            streamed, as is ``padding``.

        padding: ``"zero"`` or ``"reflect"``.

        precision: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp64"``.

        seed: Of the first weights, the order of the pictures, and what is random in training.

    Raises:
        InputError: For an unknown name, a number out of range, or an option the method does not have.
    """

    method: str
    data: str = _setting("shapes", "A name, a folder or an archive.")
    student: str | None = _own("The network to train.")
    teacher: str | None = _setting(None, "A run's folder or network file; for shapes the shipped one.")
    options: dict[str, Option] = field(default_factory=dict)
    labels: int = _setting(0, "Training pictures to use; 0 is all.")
    label_noise: float = _setting(0.0, "Share of the training labels that are wrong.")
    size: int = _setting(32, "Pixels a side; 64 for shapes too; your own are streamed from 128 on.")
    validation: float = _setting(0.1, "Share held out of training.")
    data_seed: int = _setting(0, "Of splits, and of drawn data.")
    epochs: int = _setting(40, "Epochs of training.")
    batch_size: int = _setting(64, "Pictures in a batch.")
    lr: float = _setting(0.05, "Learning rate at the start.")
    weight_decay: float | None = _own("Weight decay of the optimizer.")
    momentum: float | None = _own("Momentum of the optimizer.")
    nesterov: bool | None = _own("Nesterov's momentum.")
    schedule: str | None = _own(f"Of the learning rate: {' or '.join(SCHEDULES)}.")
    flip: bool = _setting(True, "Mirror pictures at random.")
    pad: int = _setting(4, "Pixels to pad before random crops.")
    padding: str = _setting("zero", "zero or reflect.")
    precision: str = _setting("auto", f"{', '.join(PRECISIONS)}.")
    seed: int = _setting(0, "Of weights, batches and dropout.")

    def __post_init__(self) -> None:
        require_choice("method", self.method, METHODS)
        if self.student is None:
            object.__setattr__(self, "student", self.kind.default_student)
        plain_name(self.student)
        require_choice("padding", self.padding, ("zero", "reflect"))
        require_choice("precision", self.precision, PRECISIONS)
        if self.schedule is not None:
            require_choice("schedule", self.schedule, SCHEDULES)
        for setting in fields(self):
            self._check_number(setting.name, setting.type)
        if self.label_noise > 1:
            raise InputError(f"label_noise must be at most 1, found {self.label_noise}.")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"lr must be above 0, found {self.lr}.")
        options = canonical_options(self.method, self.kind, self.options)
        object.__setattr__(self, "options", options)

    def _check_number(self, name: str, kind: str) -> None:
        """Brings a number to its type: 1 and 1.0 are one learning rate, 2.5 epochs are a mistake."""
        value, word = getattr(self, name), kind.split(" ")[0]
        if word not in ("int", "float") or (value is None and "None" in kind):
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{name} must be a number, found {value!r}.")
        if word == "int" and not (isinstance(value, int) or value.is_integer()):
            raise InputError(f"{name} must be a whole number, found {value}.")
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise InputError(
                f"{name} must be below 2 to the power of 63, found a number of {value.bit_length()} bits."
            )
        if name in LEAST and not LEAST[name] <= value < float("inf"):
            raise InputError(f"{name} must be at least {LEAST[name]}, found {value}.")
        object.__setattr__(self, name, int(value) if word == "int" else float(value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.settings == other.settings

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def kind(self) -> type[Method]:
        """The class of the method."""
        return METHODS[self.method]

    @property
    def settings(self) -> dict[str, object]:
        """Every field, the method's own settings in place of None: what a record keeps."""
        own = {name: getattr(self.kind, name) for name in OWN if getattr(self, name) is None}
        return asdict(self) | own

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits, the same for equal specs and others for others."""
        settings = self.settings
        for name in ("momentum", "nesterov"):  # a spec of the first edition keeps its digest
            if settings[name] == getattr(self.kind, name):
                del settings[name]
        if not self.label_noise:
            del settings["label_noise"]
        settings["data"] = DIGESTED.get(self.data, self.data)
        if self.size >= STREAMED:  # before there was streaming, such a run had other crops
            settings["crops"] = "random resized"
        return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """The folder of the run: readable, and unique through the digest."""
        data = "shapes" if self.data in DIGESTED else Path(self.data).name.split(".")[0]
        return f"{self.method}-{data}-{self.student}-seed{self.seed}-{self.digest}"

    @property
    def all_options(self) -> dict[str, Option]:
        """The method's keyword arguments in this run, today's defaults among them."""
        return method_options(self.kind) | self.options


def with_options(spec: Spec, words: list[str]) -> Spec:
    """``spec`` with further options of its method.

    Args:
        spec: It is not changed.

        words: ``name=value``, read by the types of the method's keyword arguments.

    Raises:
        InputError: For an option that the method does not have, or a value of another type.
    """
    read = options_from_words(spec.method, spec.kind, words)
    return replace(spec, options=spec.options | read)
