"""Writes what a study found: ``results.csv``, ``report.md`` and a figure."""

import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from kdnb.files import write_whole
from kdnb.studies.cost import Cost
from kdnb.studies.plan import Study
from kdnb.studies.progress import Progress
from kdnb.studies.results import comparison, results_table, warnings
from kdnb.viz import paired_effects

FIGURE = "differences.png"


def write_report(progress: Progress, costs: Mapping[str, Cost], folder: Path) -> None:
    """Writes ``results.csv``, ``report.md`` and, where there are differences, ``differences.png``.

    Args:
        progress: Of the study. It may be unfinished.

        costs: Of one run of each arm, by name.

        folder: Where the files are written.

    Raises:
        InputError: If the folder cannot be written.
    """
    found = comparison(progress, costs)
    write_whole(folder / "results.csv", results_table(progress).round(4).to_csv(index=False))
    drawn = found.dropna(subset=["difference"])
    if len(drawn):
        write_whole(folder / FIGURE, _figure(progress.study, drawn))
    text = report_text(progress.study, found, warnings(progress), figure=bool(len(drawn)))
    write_whole(folder / "report.md", text)


def report_text(study: Study, found: pd.DataFrame, warned: list[str], *, figure: bool) -> str:
    """The report in Markdown.

    Args:
        study: The study.

        found: Its ``comparison``.

        warned: Its ``warnings``.

        figure: Whether the figure lies beside the report.
    """
    parts = [f"# {study.title}", study.question, _protocol(study), _table(study, found)]
    if figure:
        words = f"Difference from {study.baseline} with its 95 % interval, for every arm"
        parts.append(f"![{words}]({FIGURE})")
    parts.append(
        "*last* and *selected* are mean test accuracies in percent, after the last epoch and at the epoch "
        f"with the best validation accuracy. *difference* is that of *last* from *{study.baseline}*, paired "
        "by seed, with its 95 % interval. *p* is corrected for the number of arms (Holm). *compute* is the "
        f"arithmetic of one run's training steps, in multiples of *{study.baseline}*; *hours* are those "
        "of the reported runs together."
    )
    if warned:
        parts.append("## To be kept in mind\n\n" + "\n".join(f"- {sentence}" for sentence in warned))
    return "\n\n".join(part for part in parts if part) + "\n"


def _protocol(study: Study) -> str:
    counts = sorted({len(arm.trials) for arm in study.arms.values()})
    seeds = ", ".join(map(str, study.seeds))
    if not study.searches:
        return f"Every arm ran with the settings of the study file. Reported seeds: {seeds}."
    searched = ", ".join(map(str, study.search_seeds))
    short = "" if study.search_share == 1 else f" The search trains {study.search_share:.0%} of the epochs."
    return (
        f"Every arm was given {counts[0]} trials, judged by validation accuracy after the last epoch, on "
        f"seeds {searched}. Each arm's best setting then ran on fresh seeds: {seeds}.{short}"
    )


def _table(study: Study, found: pd.DataFrame) -> str:
    head = "| arm | setting | seeds | last | std | selected | difference | p | verdict | compute | hours |"
    lines = [head, "|---" * 11 + "|"]
    for name, row in found.iterrows():
        gain = ""
        if not math.isnan(row["difference"]):
            gain = f"{row['difference']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})"
        cells = [f"**{name}**" if name == study.baseline else name, row["setting"], str(row["seeds"])]
        cells += [_number(row[column], 1) for column in ("mean", "std", "selected")]
        cells += [gain, _number(row["p"], 3), row["verdict"], _number(row["compute"], 2)]
        lines.append("| " + " | ".join([*cells, _number(row["hours"], 2)]) + " |")
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _figure(study: Study, drawn: pd.DataFrame) -> bytes:
    effects = {row.Index: (row.difference, row.low, row.high) for row in drawn.itertuples()}
    axes = paired_effects(effects, x_label=f"test accuracy minus {study.baseline} (points)")
    picture = BytesIO()
    axes.figure.savefig(picture, format="png", dpi=200, bbox_inches="tight", metadata={"Software": None})
    plt.close(axes.figure)
    return picture.getvalue()
