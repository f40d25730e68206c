"""Specs: every field counts, and every mistake is told with the nearest right word."""

import math
from dataclasses import fields, replace

import pytest

from kdnb.errors import InputError
from kdnb.method import Method
from kdnb.methods import METHODS
from kdnb.paths import PROJECT
from kdnb.runs import records
from kdnb.runs.options import method_options, option_word
from kdnb.runs.spec import Spec, with_options
from kdnb.train.schedules import SCHEDULES

SPEC = Spec("kd")
OTHER = {
    "method": "labels-only",
    "data": "cifar10",
    "student": "resnet14",
    "teacher": "runs/teacher",
    "options": {"temperature": 2.0},
    "labels": 100,
    "label_noise": 0.2,
    "size": 64,
    "validation": 0.2,
    "data_seed": 1,
    "epochs": 41,
    "batch_size": 65,
    "lr": 0.051,
    "weight_decay": 0.0,
    "momentum": 0.8,
    "nesterov": True,
    "schedule": "benchmark",
    "flip": False,
    "pad": 3,
    "padding": "reflect",
    "precision": "fp32",
    "seed": 1,
}


@pytest.mark.parametrize("field", [field.name for field in fields(Spec)])
def test_the_digest_changes_with_every_field(field):
    changed = replace(SPEC, **{field: OTHER[field]})
    assert changed.digest != SPEC.digest
    assert changed.name != SPEC.name


def test_equal_specs_have_equal_digests():
    assert Spec("kd", seed=3).digest == Spec("kd", seed=3).digest
    one = Spec("kd", options={"temperature": 2.0, "soft_weight": 0.5})
    other = Spec("kd", options={"soft_weight": 0.5, "temperature": 2.0})
    assert one == other
    assert one.digest == other.digest


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("shapes", "shapes"),
        ("shapes-v1", "shapes"),
        ("some/where/my pets/", "my pets"),
        ("pets.v2.tar.gz", "pets"),
    ],
)
def test_the_name_is_readable(data, shown):
    spec = Spec("labels-only", data=data, student="resnet20", seed=4)
    assert spec.name == f"labels-only-{shown}-resnet20-seed4-{spec.digest}"
    assert "/" not in spec.name
    assert len(spec.digest) == 8
    assert int(spec.digest, 16) >= 0


def test_a_methods_own_settings_hold_unless_the_user_sets_them():
    ffsd, kd = Spec("ffsd"), Spec("kd")
    assert (ffsd.settings["weight_decay"], ffsd.settings["nesterov"]) == (1e-4, True)
    assert (kd.settings["weight_decay"], kd.settings["nesterov"]) == (5e-4, False)
    assert replace(kd, method="ffsd").settings["weight_decay"] == 1e-4
    assert Spec("ffsd", weight_decay=5e-4).settings["weight_decay"] == 5e-4
    assert Spec("ffsd", weight_decay=1e-4, momentum=0.9, nesterov=True, schedule="cosine") == ffsd


def test_the_default_student_is_the_methods_own():
    assert Spec("kd").student == "resnet8"
    assert Spec("ddnn").student == "resnet20"


def test_committed_runs_keep_their_names():
    """Records of the first edition, whose specs had neither momentum nor nesterov."""
    checked = 0
    for path in sorted((PROJECT / "data" / "records").rglob("run.json"))[::7]:
        record = records.read(path.parent)
        spec = Spec(**record.spec)
        if spec.options == record.spec["options"]:  # else one became a default since, or a tuple
            assert spec.name == path.parent.name
            checked += 1
    assert checked > 40


def test_a_run_on_the_first_shapes_is_never_taken_for_one_on_todays():
    today, first = Spec("kd", data="shapes"), Spec("kd", data="shapes-v1")
    assert today.digest != first.digest
    assert today.name != first.name
    committed = sorted((PROJECT / "data" / "records" / "shapes").rglob("run.json"))
    for path in committed:
        record = records.read(path.parent)
        assert record.spec["data"] == "shapes-v1"
        assert Spec(**record.spec | {"data": "shapes"}).name != path.parent.name
    assert len(committed) == 40
    assert set(records.table(committed[0].parents[1])["data"]) == {"shapes-v1"}


def test_a_streamed_run_is_never_taken_for_one_that_was_not(monkeypatch):
    streamed, small = (Spec("kd", data="pictures", size=size).digest for size in (128, 64))
    monkeypatch.setattr("kdnb.runs.spec.STREAMED", 10_000)  # as before there was streaming
    assert Spec("kd", data="pictures", size=128).digest != streamed
    assert Spec("kd", data="pictures", size=64).digest == small


@pytest.mark.parametrize(
    ("field", "value", "kind", "nearest"),
    [
        ("method", "label-only", "method", "labels-only"),
        ("student", "resnet9", "network", "resnet8"),
        ("schedule", "cosin", "schedule", "cosine"),
        ("precision", "fp16", "precision", "bf16"),
        ("padding", "reflection", "padding", "reflect"),
    ],
)
def test_unknown_names_suggest_the_nearest(field, value, kind, nearest):
    with pytest.raises(InputError, match=f"Unknown {kind} {value!r}") as caught:
        replace(SPEC, **{field: value})
    assert f"Did you mean {nearest!r}?" in str(caught.value) or kind == "precision"
    assert nearest in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("batch_size", 0),
        ("labels", -1),
        ("label_noise", -0.1),
        ("label_noise", 1.1),
        ("weight_decay", -1e-9),
        ("lr", 0),
        ("lr", -0.1),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", -math.inf),
    ],
)
def test_numbers_out_of_range(field, value):
    with pytest.raises(InputError, match=f"{field} must be .*, found {value}"):
        replace(SPEC, **{field: value})


def test_both_schedules_begin_at_one():
    assert SCHEDULES["cosine"](0) == SCHEDULES["benchmark"](0) == 1
    assert SCHEDULES["benchmark"](151 / 240) == pytest.approx(0.1)
    assert SCHEDULES["benchmark"](211 / 240) == pytest.approx(0.001)
    assert SCHEDULES["cosine"](0.5) == pytest.approx(0.5)


class Sixth(Method):
    """A method with one option of every type."""

    def __init__(
        self, student, *, weight: float = 1.0, layers: int = 3, deep: bool = False, mode: str = "a"
    ) -> None:
        super().__init__()


class TestOptions:
    @pytest.fixture
    def spec(self, monkeypatch):
        monkeypatch.setitem(METHODS, "sixth", Sixth)
        return Spec("sixth")

    def test_defaults(self):
        assert method_options(Sixth) == {"weight": 1.0, "layers": 3, "deep": False, "mode": "a"}

    @pytest.mark.parametrize(
        ("word", "value"),
        [
            ("weight=2", 2.0),
            ("weight=1e-3", 0.001),
            ("layers=4", 4),
            ("deep=true", True),
            ("mode=b", "b"),
            ("mode=a=b", "a=b"),
            ("mode=", ""),
        ],
    )
    def test_values_are_read_by_type(self, spec, word, value):
        options = with_options(spec, [word]).options
        assert options == {word.partition("=")[0]: value}
        assert type(*options.values()) is type(value)

    def test_later_words_win_and_the_spec_is_not_changed(self, spec):
        first = with_options(spec, ["layers=4", "weight=2"])
        second = with_options(first, ["layers=5"])
        assert second.options == {"layers": 5, "weight": 2.0}
        assert first.options == {"layers": 4, "weight": 2.0}
        assert spec.options == {}
        assert len({spec.digest, first.digest, second.digest}) == 3

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("weight=heavy", "weight is a float, found 'heavy'"),
            ("layers=2.5", "layers is an int, found '2.5'"),
            ("weight=nan", "weight must be a finite number, found nan"),
            ("weight=1e999", "weight must be a finite number, found inf"),
            ("deep=1", "deep is a bool, found '1'"),
            ("layers=", "layers is an int, found ''"),
            ("weight", "given as name=value, found 'weight'"),
            ("", "given as name=value, found ''"),
            ("wieght=2", "Unknown option of sixth 'wieght'. Did you mean 'weight'?"),
            ("student=2", "Unknown option of sixth 'student'"),
        ],
    )
    def test_mistakes(self, spec, word, message):
        with pytest.raises(InputError) as caught:
            with_options(spec, [word])
        assert message in str(caught.value)

    @pytest.mark.parametrize("method", sorted(METHODS))
    def test_every_method_has_options_that_a_word_can_give(self, method):
        for name, default in method_options(METHODS[method]).items():
            assert default is None or type(default) in (float, int, bool, str, tuple), name
            assert with_options(Spec(method), [f"{name}={option_word(default)}"]) == Spec(method)


def test_one_number_has_one_digest():
    assert Spec("kd", lr=1).digest == Spec("kd", lr=1.0).digest
    assert with_options(Spec("kd"), ["temperature=4"]).digest == Spec("kd").digest
    assert with_options(Spec("kd"), ["temperature=3"]).digest != Spec("kd").digest


@pytest.mark.parametrize(
    ("method", "options", "same"),
    [
        ("kd", {"temperature": 2}, {"temperature": 2.0}),
        ("kd", {"temperature": 4.0}, {}),
        ("ffsd", {"students": 3.0}, {"students": 3}),
        ("ddnn", {"depths": [14]}, {"depths": (14,)}),
        ("ddnn", {"depths": "14"}, {"depths": (14,)}),  # as the first edition kept it
        ("ddnn", {"depths": "14,8"}, {}),
        ("ddnn", {"depths": [[3, 3, 2], 8]}, {"depths": ((3, 3, 2), 8)}),
        ("ecd", {"links": ["stem"]}, {"links": ("stem",)}),
    ],
)
def test_one_run_has_one_digest(method, options, same):
    one, other = Spec(method, options=options), Spec(method, options=same)
    assert one == other
    assert one.digest == other.digest
    assert one.options == other.options


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("kd", {"temprature": 2.0}, "Did you mean 'temperature'"),
        ("kd", {"temperature": "2"}, "temperature is a float, found '2'"),
        ("kd", {"temperature": True}, "temperature is a float, found True"),
        ("kd", {"temperature": float("nan")}, "temperature must be a finite number, found nan"),
        ("kd", {"temperature": 10**400}, "temperature must be a finite number"),
        ("ffsd", {"students": 2.5}, "students is an int, found 2.5"),
        ("ffsd", {"diversity": 1}, "diversity is a str, found 1"),
        ("ecd", {"detached_links": 1}, "detached_links is a bool, found 1"),
        ("ddnn", {"depths": 14}, "depths is a tuple of int or a tuple of int, found 14"),
        ("ddnn", {"depths": (14, "a")}, "depths is an int or a tuple of int, found 'a'"),
    ],
)
def test_options_of_the_wrong_type_are_refused_in_python_too(method, options, message):
    with pytest.raises(InputError, match=message):
        Spec(method, options=options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 2.5),
        ("seed", 2**70),
        ("lr", 10**400),
        ("batch_size", "64"),
        ("epochs", True),
        ("weight_decay", float("nan")),
        ("weight_decay", float("inf")),
        ("seed", 0.5),
    ],
)
def test_numbers_that_make_no_sense_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        Spec("kd", **{name: value})
