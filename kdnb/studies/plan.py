"""A study as its file describes it: arms, a search of equal size for each, and the reported seeds."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path

from kdnb.errors import InputError, require_choice
from kdnb.runs import Spec, method_options
from kdnb.seeds import derived_seed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = tuple(field.name for field in fields(Spec) if field.name not in ("method", "options", "seed"))
STUDY_KEYS = ("title", "question", "baseline", "seeds", "evaluate_every", "all", "search", "arms")
SEARCH_KEYS = ("seeds", "trials", "values", "part", "share_of_epochs")
ARM_KEYS = ("method", "options", "learner", "teacher_arm", "search")

Values = Mapping[str, object]  # settings of a Spec and options of its method, by name


@dataclass(frozen=True, eq=False)
class Arm:
    """One of the things that a study compares.

    Attributes:
        name: As the report shows it.

        spec: The run of this arm with its first trial's values and seed 0. An arm that learns from another
            arm's network has no teacher here.

        trials: What the search tries, in order: settings and options by name. It is one empty dict where
            nothing is searched.

        teacher_arm: The arm whose network of the same seed is the teacher, or None.

        learner: The learner whose accuracy counts, or None for the one that is exported.
    """

    name: str
    spec: Spec
    trials: tuple[Values, ...]
    teacher_arm: str | None
    learner: str | None

    def run(self, trial: Values, seed: int, teacher: str | None) -> Spec:
        """The run of one trial and seed.

        Args:
            trial: One of ``trials``.

            seed: Of the run.

            teacher: Name of the folder of the teacher arm's run; None without a teacher arm.
        """
        with_teacher = self.spec if teacher is None else replace(self.spec, teacher=teacher)
        return _with_values(replace(with_teacher, seed=seed), trial)


@dataclass(frozen=True, eq=False)
class Study:
    """Arms that are tuned alike on validation pictures and then compared on fresh seeds.

    Attributes:
        title: Of the report.

        question: What the study shall answer.

        baseline: Name of the arm that the others are compared with.

        seeds: What is reported.

        search_seeds: What the search is judged on. None of them is reported.

        search_share: Share of its epochs that a run of the search has, above 0 and at most 1.

        evaluate_every: Epochs from one evaluation to the next.

        arms: The arms by name, each behind the arm that it learns from.
    """

    title: str
    question: str
    baseline: str
    seeds: tuple[int, ...]
    search_seeds: tuple[int, ...]
    search_share: float
    evaluate_every: int
    arms: dict[str, Arm]

    @property
    def searches(self) -> bool:
        """Whether anything is searched."""
        return any(len(arm.trials) > 1 for arm in self.arms.values())

    @cached_property
    def most_runs(self) -> int:
        """How many runs the study has if none serves two arms."""
        searched = len(self.search_seeds) if self.searches else 0
        return sum(len(arm.trials) * searched + len(self.seeds) for arm in self.arms.values())

    def in_search(self, spec: Spec) -> Spec:
        """The run as the search makes it: with a share of its epochs, rounded, at least one.

        Args:
            spec: The run at its full length.
        """
        return replace(spec, epochs=max(1, round(spec.epochs * self.search_share)))


def read_study(path: Path) -> Study:
    """Reads a study file and checks the whole of it.

    Args:
        path: A TOML file; ``notebooks/README.md`` shows one.

    Returns:
        The study.

    Raises:
        InputError: If the file cannot be read, or describes something that cannot be run.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is not a study file that can be read: {error}.") from error
    return study_of(content)


def study_of(content: Mapping[str, object]) -> Study:
    """A study from what its file holds.

    Args:
        content: The tables and values of the file.

    Raises:
        InputError: For an unknown name, a missing entry, a seed that is both searched and reported, arms with
            searches of different size, arms that teach each other in a circle, and every run that ``Spec``
            refuses.
    """
    for key in content:
        require_choice("entry of a study", key, STUDY_KEYS)
    shared, search = _table(content, "all"), _table(content, "search")
    for key in shared:
        require_choice("setting in [all]", key, SETTINGS)
    seeds, search_seeds = _seeds(content, "seeds", "seeds"), _search_seeds(search)
    if both := sorted(set(seeds) & set(search_seeds)):
        raise InputError(
            f"Seed {both[0]} is in the search and among the reported seeds. A setting that is chosen on a "
            "seed looks better on it than on others; search on seeds of their own."
        )
    tables = _table(content, "arms")
    if len(tables) < 2:
        raise InputError(
            f"A study compares at least two arms, found {len(tables)}: write [arms.NAME] tables."
        )
    arms = {name: _arm(name, table, shared, search) for name, table in tables.items()}
    _require_equal_searches(arms)
    baseline = content.get("baseline")
    require_choice("arm as the baseline", str(baseline), arms)
    every = content.get("evaluate_every", 1)
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise InputError(f"evaluate_every must be a whole number, at least 1, found {every!r}.")
    words = (str(content.get("title", "A study")), str(content.get("question", "")))
    share = _share(search)
    return Study(*words, str(baseline), seeds, search_seeds, share, every, _teachers_first(arms))


def _arm(name: str, table: object, shared: Values, search: Values) -> Arm:
    if not isinstance(table, dict):
        raise InputError(f"Arm {name!r} must be a table with at least a method, found {table!r}.")
    for key in table:
        require_choice(f"entry of arm {name!r}", key, (*ARM_KEYS, *SETTINGS))
    if "method" not in table:
        raise InputError(f"Arm {name!r} has no method; 'kdnb list' shows them.")
    teacher_arm = table.get("teacher_arm")
    if teacher_arm is not None and ("teacher" in table or "teacher" in shared):
        raise InputError(f"Arm {name!r} has a teacher and a teacher_arm; one of them is enough.")
    values = table.get("search", search.get("values", {}))
    trials = tuple(_trials(name, values, search.get("trials")))
    own = {key: value for key, value in table.items() if key in SETTINGS}
    try:
        spec = Spec(table["method"], options=dict(table.get("options", {})), **(dict(shared) | own))
        for trial in trials:
            _with_values(spec, trial)
    except (InputError, TypeError) as error:
        raise InputError(f"Arm {name!r}: {error}") from error
    if teacher_arm is not None and "teacher" not in _needs(spec):
        raise InputError(f"Arm {name!r} names a teacher_arm, but {spec.method} has no teacher.")
    return Arm(name, spec, trials, teacher_arm, table.get("learner"))


def _trials(name: str, values: object, count: object) -> Iterator[Values]:
    """All combinations of the values, or ``count`` of them drawn at random, the same for equal values."""
    if not isinstance(values, dict) or not all(
        isinstance(tried, list) and tried for tried in values.values()
    ):
        raise InputError(
            f"Arm {name!r}: a search names a list of values for each setting or option, such as "
            f"lr = [0.05, 0.1], found {values!r}."
        )
    if "seed" in values:
        raise InputError(f"Arm {name!r}: a search over seed would choose a lucky run. Search over settings.")
    every = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    if count is None or count == len(every):
        return iter(every)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(every):
        raise InputError(
            f"Arm {name!r}: its search has {len(every)} combinations of values, so trials must be a whole "
            f"number from 1 to {len(every)}, found {count!r}. Every arm gets the same number of trials."
        )
    chosen = random.Random(derived_seed("trials", repr(values))).sample(range(len(every)), count)
    return iter([every[place] for place in sorted(chosen)])


def _with_values(spec: Spec, values: Values) -> Spec:
    """``spec`` with other settings and options, by name."""
    settings = {name: value for name, value in values.items() if name in SETTINGS}
    options = {name: value for name, value in values.items() if name not in SETTINGS}
    for name in options:
        require_choice("setting or option in a search", name, (*SETTINGS, *method_options(spec.kind)))
    return replace(spec, options=spec.options | options, **settings)


def _search_seeds(search: Values) -> tuple[int, ...]:
    for key in search:
        require_choice("entry of [search]", key, SEARCH_KEYS)
    if search.get("part", "validation") != "validation":
        raise InputError(
            f"A search is judged on the validation part alone, found part = {search['part']!r}. What is "
            "chosen on the test part cannot be measured on it afterwards."
        )
    return _seeds(search, "seeds", "[search] seeds") if search else ()


def _share(search: Values) -> float:
    share = search.get("share_of_epochs", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(
            f"share_of_epochs in [search] must be a number above 0 and at most 1, found {share!r}."
        )
    return float(share)


def _seeds(table: Values, key: str, words: str) -> tuple[int, ...]:
    found = table.get(key)
    whole = isinstance(found, list) and all(type(seed) is int for seed in found)
    if not whole or not found or len(set(found)) < len(found):
        raise InputError(f"{words} must be a list of different whole numbers, at least one, found {found!r}.")
    return tuple(found)


def _table(content: Values, key: str) -> Values:
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise InputError(f"[{key}] must be a table, found {found!r}.")
    return found


def _needs(spec: Spec) -> tuple[str, ...]:
    """The names of the networks that the method's constructor takes."""
    return tuple(spec.kind.__init__.__annotations__)


def _require_equal_searches(arms: Mapping[str, Arm]) -> None:
    first, *others = arms.values()
    for arm in others:
        if len(arm.trials) != len(first.trials):
            raise InputError(
                f"Arm {first.name!r} has {len(first.trials)} trials in its search, {arm.name!r} has "
                f"{len(arm.trials)}. An arm that is searched more wins by that alone: give all arms as many "
                "combinations, or set trials in [search] to the smallest number."
            )


def _teachers_first(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """The arms in their order, but each behind the arm that it learns from."""
    ordered: dict[str, Arm] = {}

    def place(name: str, waiting: tuple[str, ...]) -> None:
        if name in waiting:
            circle = " -> ".join((*waiting[waiting.index(name) :], name))
            raise InputError(f"These arms wait for each other's networks: {circle}. Cut the circle.")
        if (teacher := arms[name].teacher_arm) is not None:
            require_choice(f"teacher_arm of {name!r}", teacher, arms)
            place(teacher, (*waiting, name))
        ordered[name] = arms[name]

    for name in arms:
        place(name, ())
    return ordered
