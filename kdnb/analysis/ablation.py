"""Names for recorded runs that differ from each other in a few options."""

import re
from collections.abc import Mapping

import pandas as pd


def variant_names(records: pd.DataFrame, defaults: Mapping[str, Mapping[str, object]]) -> list[str]:
    """A name for each recorded run: its method and the options that differ from the method's defaults.

    Args:
        records: Recorded runs, as ``kdnb.runs.records.table`` returns them, one in each row.

        defaults: The default options of every method, by the name of the method.

    Returns:
        A name for each row.

    Example:
        >>> records = pd.DataFrame({"method": ["kd", "kd"], "temperature": [4.0, 2.0]})
        >>> variant_names(records, {"kd": {"temperature": 4.0}})
        ['kd', 'kd, temperature 2']
    """
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
    """The number of layers of the network in each row of a table of runs.

    Args:
        records: Recorded runs, as ``kdnb.runs.records.table`` returns them, with the columns ``student``
            and ``learner``.

    Returns:
        The number of layers for each row: that of the sub-net, or else the number at the end of the
        student's name. None for an exit of BYOT, which is another kind of network.

    Example:
        >>> records = pd.DataFrame({"student": ["resnet20"] * 3, "learner": ["full", "depth8", "exit1"]})
        >>> network_depths(records)
        [20, 8, None]
    """
    return [_depth(*pair) for pair in zip(records["student"], records["learner"], strict=True)]


def _depth(student: str, learner: str) -> int | None:
    if learner.startswith("exit"):
        return None
    found = re.fullmatch(r"depth(\d+)", learner) or re.search(r"(\d+)$", student)
    return int(found[1]) if found else None
