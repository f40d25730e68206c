"""What a study reports, from records that are known."""

import math

import pytest
from small_study import finish, pretend, small_study

from kdnb.analysis import holm, paired_difference
from kdnb.studies import Progress, comparison, results_table, warnings
from kdnb.studies.cost import Cost
from kdnb.studies.report import write_report
from kdnb.studies.results import collapsed

SCORES = {"labels only": 50.0, "kd": 55.0, "alone": 70.0}
COSTS = {"labels only": Cost(2e12, 30.0), "kd": Cost(3e12, 40.0), "alone": Cost(8e12, 90.0)}


@pytest.fixture
def progress(tmp_path) -> Progress:
    found = Progress(small_study(), tmp_path)
    finish(found, SCORES, kd_lr=0.1)
    return found


def test_a_row_for_every_run(progress):
    found = results_table(progress)
    assert found.groupby(["arm", "phase"]).size().to_dict() == {
        (arm, phase): 3 for arm in SCORES for phase in ("search", "report")
    }
    assert found.query("arm == 'kd' and phase == 'report'")["setting"].unique().tolist() == ["lr=0.1"]


def test_the_search_never_shows_the_test_part(progress):
    searched = results_table(progress).query("phase == 'search'")
    assert searched[["last", "selected", "selected_epoch"]].isna().all(axis=None)
    assert searched["validation"].notna().all()


def test_means_and_paired_differences(tmp_path):
    progress = Progress(small_study(), tmp_path)
    finish(progress, SCORES)
    for seed, spec in progress.reported(progress.study.arms["kd"]):
        pretend(tmp_path, spec, last={10: 52.0, 11: 55.0, 12: 54.0}[seed])
    found = comparison(Progress(progress.study, tmp_path), COSTS)
    expected = paired_difference([52.0, 55.0, 54.0], [51.0, 51.1, 51.2])
    kd = found.loc["kd"]
    assert (kd["mean"], kd["seeds"]) == (pytest.approx(53.666667), 3)
    assert kd["std"] == pytest.approx(1.527525)
    assert kd["selected"] == pytest.approx(52.666667)
    assert (kd["difference"], kd["low"], kd["high"]) == pytest.approx(tuple(expected))
    assert kd["verdict"] == "no difference shown"
    assert kd["compute"] == 1.5
    assert kd["hours"] == pytest.approx(0.03)
    assert math.isnan(found.loc["labels only", "difference"])


def test_a_gain_is_called_above_when_its_corrected_p_is_small(tmp_path):
    progress = Progress(small_study(), tmp_path)
    finish(progress, SCORES)
    for arm, gains in (("kd", (0.9, 1.0, 1.1)), ("alone", (-5.0, -5.2, -4.9))):
        for (_, spec), gain in zip(progress.reported(progress.study.arms[arm]), gains, strict=True):
            pretend(tmp_path, spec, last=50 + spec.seed / 10 + gain)
    found = comparison(Progress(progress.study, tmp_path), COSTS)
    assert found["verdict"].to_dict() == {"labels only": "", "alone": "below", "kd": "above"}
    # Of two tests the larger p counts once and the smaller one twice. With two degrees of freedom the
    # two-sided p of t is 1 - |t| / sqrt(2 + t^2).
    t = {"kd": 1.0 / (0.1 / 3**0.5), "alone": 5.0333333 / (0.1527525 / 3**0.5)}
    p = {arm: 1 - value / (2 + value**2) ** 0.5 for arm, value in t.items()}
    assert found.loc["alone", "p"] == pytest.approx(2 * p["alone"], rel=1e-5)
    assert found.loc["kd", "p"] == pytest.approx(p["kd"], rel=1e-5)


def test_equal_runs_differ_by_nothing(tmp_path):
    arms = {name: {"method": "labels-only"} for name in ("labels only", "again")}
    progress = Progress(small_study(arms=arms), tmp_path)
    while ready := progress.ready():
        for spec in ready.values():
            pretend(tmp_path, spec, last=50.0 + spec.seed)
    again = comparison(progress, dict.fromkeys(arms, Cost(1.0, 1.0))).loc["again"]
    assert (again["difference"], again["p"], again["verdict"]) == (0.0, 1.0, "no difference shown")


def test_holm_is_that_of_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_value_at_the_edge_of_its_search_is_told(progress):
    [told] = warnings(progress)
    assert told == "kd: the chosen lr=0.1 is the largest that was tried. A larger one may be better still."


def test_a_collapsed_seed_is_told(tmp_path):
    progress = Progress(small_study(), tmp_path)
    finish(progress, SCORES)
    spec = dict(progress.reported(progress.study.arms["labels only"]))[11]
    pretend(tmp_path, spec, last=8.3)
    told = warnings(Progress(progress.study, tmp_path))
    assert "labels only: seed 11 collapsed to 8.3 %. It counts in every number here." in told


def test_only_a_fall_below_half_is_a_collapse():
    assert collapsed([80.0, 39.9, 81.0]) == [1]
    assert collapsed([80.0, 40.1, 81.0]) == []


def test_failed_and_missing_runs_are_told(tmp_path):
    progress = Progress(small_study(), tmp_path)
    finish(progress, SCORES)
    for seed, spec in progress.reported(progress.study.arms["alone"]):
        if seed == 11:
            (tmp_path / spec.name / "run.json").unlink()
            progress.note_failure(spec, "NotFinite", "student/label is nan")
    told = warnings(Progress(progress.study, tmp_path))
    assert "alone: seed 11 failed (NotFinite: student/label is nan)." in told
    assert "kd: 1 of 3 reported runs are missing." in told


def test_runs_of_different_versions_are_told(tmp_path):
    progress = Progress(small_study(), tmp_path)
    finish(progress, SCORES)
    spec = dict(progress.reported(progress.study.arms["kd"]))[11]
    pretend(tmp_path, spec, versions={"kdnb": "3", "torch": "2.16.0"})
    [told] = [t for t in warnings(Progress(progress.study, tmp_path)) if "versions" in t]
    assert "kdnb 2, torch 2.15.0, cpu; kdnb 3, torch 2.16.0, cpu" in told


def test_a_study_without_a_search_is_told(tmp_path):
    arms = {name: {"method": "labels-only"} for name in ("labels only", "again")}
    progress = Progress(small_study(arms=arms, search={}), tmp_path)
    assert "No arm was tuned: every arm ran with the settings of the file." in warnings(progress)


def test_the_report_is_written(progress, tmp_path, no_windows):
    write_report(progress, COSTS, tmp_path / "report")
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        "results.csv",
        "report.md",
        "differences.png",
    }
    text = (tmp_path / "report/report.md").read_text()
    assert "| **labels only** | lr=0.05 | 3 | 51.1 | 0.1 | 50.1 |" in text
    assert "Every arm was given 3 trials" in text
    assert "- kd: the chosen lr=0.1 is the largest" in text
    assert str(tmp_path) not in text


def test_an_unfinished_study_has_a_report(tmp_path):
    write_report(Progress(small_study(), tmp_path / "runs"), COSTS, tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "labels only: 3 of 3 reported runs are missing." in text
    assert not (tmp_path / "report/differences.png").exists()
