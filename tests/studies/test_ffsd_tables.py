"""The tables of ``data/ffsd_tables.md`` are what the records give, and their arithmetic is right."""

import pandas as pd

from kdnb.paths import PROJECT
from kdnb.studies import ffsd_tables


def rows(*found: tuple[str, str, int, float]) -> pd.DataFrame:
    return pd.DataFrame(found, columns=["variant", "learner", "seed", "last"])


def test_the_committed_tables_are_those_of_the_records(capsys):
    ffsd_tables.main()
    assert capsys.readouterr().out == (PROJECT / "data" / "ffsd_tables.md").read_text()


def test_an_average_is_taken_within_a_seed_before_the_spread_over_seeds():
    runs = rows(
        ("ffsd", "student1", 0, 60.0),
        ("ffsd", "student2", 0, 70.0),
        ("ffsd", "student1", 1, 70.0),
        ("ffsd", "student2", 1, 60.0),
        ("ffsd", "leader", 0, 99.0),
    )
    average = ffsd_tables.scores(runs, "ffsd", "average")
    assert average.to_dict() == {0: 65.0, 1: 65.0}
    assert ffsd_tables.cell(average) == "65.0 ± 0.0"


def test_the_kept_network_is_the_leader_where_there_is_one():
    runs = rows(
        ("dml", "student1", 0, 1.0),
        ("dml", "student2", 0, 2.0),
        ("ffsd", "leader", 0, 3.0),
        ("ffsd", "student1", 0, 4.0),
        ("labels-only", "student", 0, 5.0),
    )
    kept = {name: ffsd_tables.scores(runs, name, "kept")[0] for name in ("dml", "ffsd", "labels-only")}
    assert kept == {"dml": 1.0, "ffsd": 3.0, "labels-only": 5.0}
    assert ffsd_tables.scores(runs, "one", "kept").empty


def test_a_gain_is_paired_by_seed():
    runs = rows(
        ("labels-only", "student", 0, 50.0),
        ("labels-only", "student", 1, 60.0),
        ("dml", "student1", 0, 52.0),
        ("dml", "student1", 1, 64.0),
    )
    text = ffsd_tables.table_2({"toy": runs})
    assert "| ours | toy | DML | 58.0 ± 8.5 | 3.0 ± 1.4 |" in text
