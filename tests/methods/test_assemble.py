"""Every method is built from Parts, by assemble alone, and refuses options out of range by their name."""

import inspect
from dataclasses import replace

import pytest
import torch

from kdnb.datasets import Batches
from kdnb.errors import InputError
from kdnb.method import Method, Parts
from kdnb.methods import METHODS
from kdnb.networks import build
from kdnb.runs import method_options

TAUGHT = {"kd", "at", "fitnet", "srrl", "semckd", "crd"}
IMAGES = 48


def parts_of(name: str, asked: list[str]) -> Parts:
    """What a run offers; everything that is asked for is noted in ``asked``."""

    def network(number: int):
        asked.append(f"network {number}")
        return build(METHODS[name].default_student, classes=4, seed=number)

    def teacher():
        asked.append("teacher")
        return build("resnet8", classes=4, seed=99)

    labels = torch.arange(IMAGES) % 4
    pixels = torch.zeros(8, 8, 8, 3, dtype=torch.uint8)
    held_out = Batches(pixels, labels[:8], 8, (0.5,) * 3, (0.2,) * 3)
    return Parts(network, teacher, 8, labels, torch.arange(IMAGES) + 100, held_out)


def assembled(name: str, **options: object) -> Method:
    with torch.random.fork_rng():
        return METHODS[name].assemble(parts_of(name, []), **options)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_assembled_and_asks_for_a_teacher_only_if_it_has_one(name):
    asked: list[str] = []
    method = METHODS[name].assemble(parts_of(name, asked))
    assert isinstance(method, METHODS[name])
    assert asked.count("teacher") == (name in TAUGHT)
    assert asked.count("network 0") == 1, "it starts from the same weights in every method"
    assert len(asked) == len(set(asked))
    first = build(METHODS[name].default_student, classes=4, seed=0)
    assert torch.equal(method.export().head.weight, first.head.weight)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_without_a_teacher_does_without_a_loader_of_one(name):
    def missing():
        raise InputError("there is no teacher")

    parts = replace(parts_of(name, []), load_teacher=missing)
    if name in TAUGHT:
        with pytest.raises(InputError, match="there is no teacher"):
            METHODS[name].assemble(parts)
    else:
        METHODS[name].assemble(parts)


def numbers() -> list[tuple[str, str]]:
    """Every option of every method whose default is a number."""
    return [
        (name, option)
        for name, method in METHODS.items()
        for option, default in method_options(method).items()
        if type(default) in (int, float)
    ]


@pytest.mark.parametrize(("name", "option"), numbers(), ids=lambda word: word)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_numbers_out_of_range_are_refused_by_name(name, option, value):
    words = option.removeprefix("attention_").removeprefix("contrast_")  # a temperature is named so
    with pytest.raises(InputError, match=words):
        assembled(name, **{option: value})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *[(name, {"ramp_epochs": -5}, "ramp_epochs must be .*found -5") for name in ("dml", "one", "ffsd")],
        *[(name, {"ramp_epochs": 0.5}, "ramp_epochs must be .*found 0.5") for name in ("dml", "one", "ffsd")],
        ("ffsd", {"distiller_lr": 0.0}, "distiller_lr must be a finite number above 0, found 0.0"),
        ("ffsd", {"students": 2.5}, "students must be a whole number"),
        ("ecd", {"experts": 10**6}, "experts must be a whole number from 1 to 256, found 1000000"),
        ("ecd", {"anneal_epochs": 1.5}, "anneal_epochs must be a whole number"),
    ],
)
def test_counts_and_rates_out_of_range(name, options, message):
    with pytest.raises(InputError, match=message):
        assembled(name, **options)


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_a_keyword_of_the_constructor(name):
    keywords = inspect.getfullargspec(METHODS[name].__init__).kwonlyargs
    assert list(method_options(METHODS[name])) == keywords
