"""Lays out FFSD's tables as in the paper, with the recorded runs beside the paper's numbers.

The script writes the content of ``data/ffsd_tables.md`` to the standard output.
"""

import sys

import pandas as pd

from kdnb.analysis import variant_names
from kdnb.methods import FFSD, METHODS
from kdnb.networks import build
from kdnb.paths import PROJECT
from kdnb.runs.records import table
from kdnb.runs.spec import method_options

RECORDS = PROJECT / "data" / "records"
PAPERS = RECORDS.parent / "papers"
FOLDERS = {
    "shapes, ResNet-8": ("ffsd", "resnet8"),
    "CIFAR-10, ResNet-20": ("ffsd_cifar10", "resnet20"),
}
KEPT = ("leader", "student1", "student")
ONE = "one, ramp_epochs 11"  # the weight rises during a quarter of the training, as in ONE's code

HEAD = """# FFSD's tables, ours beside theirs

Made by `kdnb/studies/ffsd_tables.py` from `data/records/ffsd` (shapes, ResNet-8, 500 labels, 40 epochs, five
seeds), `data/records/ffsd_cifar10` (CIFAR-10, ResNet-20, 5,000 labels, 12 epochs, three seeds) and
`data/papers`. Commands are in `data/README.md`.

Ours: test accuracy in percent at the **last** epoch, mean ± standard deviation over the seeds, all runs of a
folder paired by seed. Theirs: CIFAR-100, about 300 epochs, the **best** epoch on the test part, ± population
standard deviation over three runs where the paper gives one. So compare a row with its neighbours of the same
source, never a level of ours with a level of theirs. — : not run, or not reported."""


def runs_in(folder: str, student: str) -> pd.DataFrame:
    """Reads the results of all learners from the records of one folder.

    Args:
        folder: Name of a folder in ``data/records``.

        student: Name of the student network. Runs of other students are left out.

    Returns:
        A table with a row for each run and learner. Its column ``variant`` names the options that differ
        from the method's defaults.
    """
    runs = table(RECORDS / folder).query("student == @student").copy()
    runs["variant"] = variant_names(runs, {name: method_options(kind) for name, kind in METHODS.items()})
    return runs


def scores(runs: pd.DataFrame, variant: str, learner: str) -> pd.Series:
    """Selects the test accuracies of one learner.

    Args:
        runs: A table made by ``runs_in``.

        variant: The variant of the method.

        learner: Name of the learner. ``average`` means the mean of the common students, and ``kept`` means
            the network that is exported.

    Returns:
        Accuracies in percent at the last epoch, by seed.
    """
    own = runs[runs["variant"] == variant]
    if learner == "average":
        return own[own["learner"].str.fullmatch(r"student\d")].groupby("seed")["last"].mean()
    found = set(own["learner"])
    name = next((name for name in KEPT if name in found), "") if learner == "kept" else learner
    return own[own["learner"] == name].set_index("seed")["last"]


def cosines(runs: pd.DataFrame, variant: str) -> pd.Series:
    """Selects the raw cosines between students' maps of the test pictures.

    Args:
        runs: A table made by ``runs_in``.

        variant: The variant of the method.

    Returns:
        Cosines by seed.
    """
    found = pd.read_csv(RECORDS / "group_scores.csv").query("score == 'cosine'").set_index("run")["value"]
    seeds = runs[runs["variant"] == variant].drop_duplicates("run").set_index("run")["seed"]
    return found.reindex(seeds.index).rename(seeds).dropna()


def cell(values: pd.Series, digits: int = 1) -> str:
    """Formats our values as a mean and a standard deviation.

    Args:
        values: Values by seed.

        digits: Digits after the decimal point.

    Returns:
        The text of one cell, which is a dash if there are no values.
    """
    if len(values) == 1:
        return f"{values.iloc[0]:.{digits}f} (one seed)"
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}" if len(values) else "—"


def printed(value: float, std: float | None = None, *, digits: int = 2) -> str:
    """Formats a number that the paper reports.

    Args:
        value: The number, or NaN if the paper does not report it.

        std: Its standard deviation, or None.

        digits: Digits after the decimal point.

    Returns:
        The text of one cell, which is a dash if the number is not reported.
    """
    if pd.isna(value):
        return "—"
    return f"{value:.{digits}f}" if std is None else f"{value:.{digits}f} ± {std:.{digits}f}"


def markdown(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """Formats a table in Markdown.

    Args:
        title: Title of the section.

        columns: Heads of the columns.

        rows: The cells of each row.

    Returns:
        The text of the section.
    """
    lines = [f"\n## {title}\n", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def table_1(ours: dict[str, pd.DataFrame]) -> str:
    """Makes Table I, the accuracy of every learner of FFSD.

    Args:
        ours: Tables made by ``runs_in``, by the name of their data and network.

    Returns:
        The text of the section.
    """
    parts = ["baseline", "student1", "student2", "union", "fusion", "leader", "gain"]
    rows = []
    for name, runs in ours.items():
        alone = scores(runs, "labels-only", "student")
        found = {part: scores(runs, "ffsd", part) for part in parts[1:-1]}
        found |= {"baseline": alone, "gain": found["leader"] - alone}
        rows.append(["ours", name, *(cell(found[part].dropna()) for part in parts)])
    for _, row in pd.read_csv(PAPERS / "ffsd_table1.csv").iterrows():
        name = f"{row['data']}, {row['network']}"
        rows.append(["paper", name, *(printed(row[part], row[f"{part}_std"]) for part in parts)])
    heads = ["labels only", "student 1", "student 2", "union (the paper's Ens)", "fusion", "leader", "gain"]
    return markdown("Table I: every learner of FFSD", ["source", "data, network", *heads], rows)


def table_2(ours: dict[str, pd.DataFrame]) -> str:
    """Makes Table II, the accuracy of the network that each method keeps.

    Args:
        ours: Tables made by ``runs_in``, by the name of their data and network.

    Returns:
        The text of the section.
    """
    names = {"labels-only": "labels only", "kd": "KD", "dml": "DML", ONE: "ONE", "ffsd": "FFSD"}
    rows = []
    for name, runs in ours.items():
        alone = scores(runs, "labels-only", "student")
        for variant, title in names.items():
            kept = scores(runs, variant, "kept")
            gain = "" if variant == "labels-only" else cell((kept - alone).dropna())
            if len(kept):
                rows.append(["ours", name, title, cell(kept), gain])
    for _, row in pd.read_csv(PAPERS / "ffsd_table2.csv").iterrows():
        gain = "" if pd.isna(row["gain"]) else printed(row["gain"])
        rows.append(["paper", f"{row['data']}, {row['network']}", row["method"], printed(row["top1"]), gain])
    columns = ["source", "data, network", "method", "kept network", "gain over labels only"]
    return markdown("Table II: the network that is kept", columns, rows)


def table_4(ours: dict[str, pd.DataFrame]) -> str:
    """Makes Table IV, how similar the students are with each diversity term.

    Args:
        ours: Tables made by ``runs_in``, by the name of their data and network.

    Returns:
        The text of the section.
    """
    students = {
        "dml, leader fusion": "DML",
        "ffsd, diversity l2, self_distillation none": "L2",
        "ffsd, diversity none": "no diversity term",
        "ffsd": "FFSD",
        "ffsd, diversity_weight 1": "FFSD, diversity weight 1",
        "ffsd, diversity consistent, diversity_weight 100": "FFSD, consistent target, weight 100",
    }
    rows = []
    for name, runs in ours.items():
        for variant, title in students.items():
            found = [cell(scores(runs, variant, part)) for part in ("average", "fusion")]
            cosine = cell(cosines(runs, variant), 3)
            rows.append(["ours", name, title, *found, cosine])
    for _, row in pd.read_csv(PAPERS / "ffsd_table4.csv").iterrows():
        found = [printed(row["average"]), printed(row["fusion"]), printed(row["cosine"], digits=4)]
        rows.append(["paper", f"{row['data']}, {row['network']}", row["students"], *found])
    columns = ["source", "data, network", "students", "average of the students", "fusion", "raw cosine"]
    return markdown("Table IV: diversity", columns, [row for row in rows if row[3] != "—"])


def table_5(ours: dict[str, pd.DataFrame]) -> str:
    """Makes Table V, what a leader adds to other methods.

    Args:
        ours: Tables made by ``runs_in``, by the name of their data and network.

    Returns:
        The text of the section.
    """
    pairs = {"DML": ("dml", "dml, leader fusion"), "ONE": (ONE, "one, leader fusion, ramp_epochs 11")}
    rows = []
    for name, runs in ours.items():
        for title, variants in pairs.items():
            pair = [scores(runs, variant, "kept") for variant in variants]
            gain = (pair[1] - pair[0]).dropna()
            rows.append(["ours", name, title, *(cell(values) for values in (*pair, gain))])
    for _, row in pd.read_csv(PAPERS / "ffsd_table5.csv").iterrows():
        found = [row["original"], row["with_leader"], row["with_leader"] - row["original"]]
        rows.append(["paper", f"{row['data']}, {row['network']}", row["method"], *map(printed, found)])
    columns = ["source", "data, network", "method", "student 1", "leader added", "gain"]
    return markdown(
        "Table V: the leader added to other methods", columns, [row for row in rows if row[4] != "—"]
    )


def table_6(ours: dict[str, pd.DataFrame]) -> str:
    """Makes Table VI, the accuracy without single parts of FFSD.

    Args:
        ours: Tables made by ``runs_in``, by the name of their data and network.

    Returns:
        The text of the section.
    """
    variants = {
        "ffsd, diversity l2, self_distillation none": "L2",
        "ffsd, diversity l2": "L2 with self-distillation",
        "ffsd, self_distillation none": "FFSD without self-distillation",
        "ffsd": "FFSD",
        "ffsd, self_distillation students": "self-distillation on common students only",
        "ffsd, self_distillation leader": "self-distillation on the leader only",
        "ffsd, leader ensemble": "without feature fusion",
    }
    parts = ["average", "fusion", "leader"]
    rows = []
    for name, runs in ours.items():
        whole = scores(runs, "ffsd", "leader")
        for variant, title in variants.items():
            found = [scores(runs, variant, part) for part in parts]
            loss = "" if variant == "ffsd" else cell((found[-1] - whole).dropna())
            rows.append(["ours", name, title, *map(cell, found), loss])
    for _, row in pd.read_csv(PAPERS / "ffsd_table6.csv").iterrows():
        found = [printed(row[part]) for part in parts]
        rows.append(["paper", f"{row['data']}, {row['network']}", row["variant"], *found, ""])
    columns = ["source", "data, network", "variant", "average of the students", "fusion", "leader"]
    rows = [row for row in rows if row[5] != "—"]
    return markdown("Table VI: parts removed", [*columns, "leader minus whole FFSD's"], rows)


def figure_6(ours: dict[str, pd.DataFrame]) -> str:
    """Makes a table of Figure 6, the accuracy of groups of two to six students.

    Args:
        ours: Tables made by ``runs_in``, by the name of their data and network.

    Returns:
        The text of the section.
    """
    parts = ["average", "union", "ensemble", "fusion", "leader"]
    rows = []
    for name, runs in ours.items():
        for count in range(2, 7):
            variant = "ffsd" if count == 2 else f"ffsd, students {count}"
            found = [scores(runs, variant, part) for part in parts]
            rows.append(["ours", name, str(count), str(len(found[-1])), *map(cell, found)])
    columns = ["source", "data, network", "students", "seeds", "average of the students", *parts[1:]]
    return markdown("Figure 6: two to six students", columns, [row for row in rows if row[3] != "0"])


def table_7() -> str:
    """Makes Table VII, the cost of each component of FFSD.

    Returns:
        The text of the section.
    """
    group = FFSD(lambda number: build("wrn_16_2", classes=100, seed=number))
    counts = {"network": 3, "fusion": 1, "decoder": 1, "self-distiller": 2}
    costs = group.costs()
    rows = [
        ["ours", name, f"{costs[name].macs / 1e6:.2f}", f"{costs[name].parameters:,}", str(count)]
        for name, count in counts.items()
    ]
    rows.append(["ours", "all", f"{sum(costs[n].macs * k for n, k in counts.items()) / 1e6:.2f}", "", ""])
    paper = pd.read_csv(PAPERS / "ffsd_table7.csv").query("method == 'FFSD'")
    for _, row in paper.iterrows():
        rows.append(["paper", row["component"], printed(row["megaflops"]), "", str(row["count"])])
    rows.append(["paper", "all", printed(paper["total_megaflops"].iloc[0]), "", ""])
    columns = ["source", "component", "million multiply-adds of one", "parameters", "how many"]
    return markdown("Table VII: WRN-16-2, two students, 32 pixels, 100 classes", columns, rows)


def main() -> None:
    """Writes all tables to the standard output."""
    ours = {name: runs_in(*where) for name, where in FOLDERS.items()}
    parts = (table_1, table_2, table_4, table_5, table_6, figure_6)
    sys.stdout.write("\n".join([HEAD, *(part(ours) for part in parts), table_7()]) + "\n")


if __name__ == "__main__":
    main()
