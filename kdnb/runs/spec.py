"""Spec: every choice that a run's result depends on, checked and hashed."""

import inspect
import json
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path

from kdnb.errors import InputError, require_choice
from kdnb.method import Method
from kdnb.methods import METHODS
from kdnb.networks import plain_name
from kdnb.train import PRECISIONS
from kdnb.train.schedules import SCHEDULES


@dataclass(frozen=True)
class Spec:
    """One run. Two runs with equal specs on one machine give equal weights, bit for bit.

    data: a name or a path, as ``datasets.load`` takes it. data_seed: of the splits, and of what
    ``shapes`` draws. labels: training pictures the student sees, 0 for all. teacher: a network file
    or a run's folder; None is the shipped teacher for shapes, and right for methods without one.
    options: the method's keyword arguments that differ from its defaults.
    """

    method: str
    data: str = "shapes"
    student: str = "resnet8"
    teacher: str | None = None
    options: dict[str, float | int | bool | str] = field(default_factory=dict)
    labels: int = 0
    size: int = 32
    validation: float = 0.1
    data_seed: int = 0
    epochs: int = 40
    batch_size: int = 64
    lr: float = 0.05
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    flip: bool = True
    pad: int = 4
    padding: str = "zero"
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("method", self.method, METHODS)
        plain_name(self.student)
        require_choice("schedule", self.schedule, SCHEDULES)
        require_choice("padding", self.padding, ("zero", "reflect"))
        require_choice("precision", self.precision, PRECISIONS)
        for number in fields(self):
            if number.type in (int, float) and not isinstance(getattr(self, number.name), bool):
                self._set_number(number.name, number.type)
        for name, least in (("epochs", 1), ("batch_size", 1), ("labels", 0), ("weight_decay", 0)):
            if not least <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be at least {least}, found {getattr(self, name)}.")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"lr must be above 0, found {self.lr}.")

    def _set_number(self, name: str, kind: type) -> None:
        """1 and 1.0 are one learning rate and must have one digest; 2.5 epochs are a mistake."""
        value = getattr(self, name)
        if kind is int and not float(value).is_integer():
            raise InputError(f"{name} must be a whole number, found {value}.")
        object.__setattr__(self, name, kind(value))

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that change with every field."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """The folder of the run: readable, and unique through the digest."""
        data = Path(self.data).name.split(".")[0]
        return f"{self.method}-{data}-{self.student}-seed{self.seed}-{self.digest}"

    @property
    def all_options(self) -> dict[str, float | int | bool | str]:
        """The method's keyword arguments in this run, today's defaults among them."""
        return method_options(METHODS[self.method]) | self.options

    @property
    def needs_teacher(self) -> bool:
        return "teacher" in inspect.signature(METHODS[self.method]).parameters


def with_options(spec: Spec, words: list[str]) -> Spec:
    """``spec`` with ``name=value`` words for the method's keyword arguments, read by their types.

    Raises InputError for an option the method does not have, or a value of another type.
    """
    defaults = method_options(METHODS[spec.method])
    options = dict(spec.options)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"An option is given as name=value, found {word!r}.")
        require_choice(f"option of {spec.method}", name, defaults)
        options[name] = _read(name, value, type(defaults[name]))
    changed = {name: value for name, value in options.items() if value != defaults[name]}
    return replace(spec, options=changed)


def method_options(method: type[Method]) -> dict[str, float | int | bool | str]:
    """A method's keyword arguments and their defaults: its hyperparameters."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _read(name: str, value: str, kind: type) -> float | int | bool | str:
    words = {"true": True, "false": False}
    try:
        return words[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise InputError(f"{name} is a {kind.__name__}, found {value!r}.") from None
