"""Runs on record that differ in one part: what each is called."""

import re
from collections.abc import Mapping

import pandas as pd


def variant_names(records: pd.DataFrame, defaults: Mapping[str, Mapping[str, object]]) -> list[str]:
    """A name for each row of ``kdnb.runs.records.table``: its method, and the options that differ from the
    method's own ``defaults``."""
    names = []
    for _, run in records.iterrows():
        own = {name: run[name] for name, usual in defaults[run["method"]].items() if run[name] != usual}
        changed = [f"{option} {_shown(value)}" for option, value in own.items()]
        names.append(", ".join([run["method"], *changed]))
    return names


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    return value if isinstance(value, str) else f"{value:g}"


def network_depths(records: pd.DataFrame) -> list[int | None]:
    """The layers of the network behind each row of ``kdnb.runs.table``: a sub-net's own, else those in
    its student's name; None for an exit of BYOT, which is another kind of network.

    >>> network_depths(pd.DataFrame({"student": ["resnet20"] * 3, "learner": ["full", "depth8", "exit1"]}))
    [20, 8, None]
    """
    return [_depth(*pair) for pair in zip(records["student"], records["learner"], strict=True)]


def _depth(student: str, learner: str) -> int | None:
    if learner.startswith("exit"):
        return None
    found = re.fullmatch(r"depth(\d+)", learner) or re.search(r"(\d+)$", student)
    return int(found[1]) if found else None
