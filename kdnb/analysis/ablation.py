"""Runs on record that differ in one part: what each is called."""

from collections.abc import Mapping

import pandas as pd


def variant_names(records: pd.DataFrame, defaults: Mapping[str, Mapping[str, object]]) -> list[str]:
    """A name for each row of ``kdnb.records.table``: its method, and the options that differ from the
    method's own ``defaults``."""
    names = []
    for _, run in records.iterrows():
        own = {name: run[name] for name, usual in defaults[run["method"]].items() if run[name] != usual}
        changed = [f"{k} {v}" if isinstance(v, str) else f"{k} {v:g}" for k, v in own.items()]
        names.append(", ".join([run["method"], *changed]))
    return names
