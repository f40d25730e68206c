"""What a report wrote is read back: accuracies, chosen settings, differences."""

import pytest

from kdnb.errors import InputError
from kdnb.studies import recorded

TABLE = """arm,phase,seed,setting,status,last
labels only,search,0,lr=0.1,finished,
labels only,report,2,"lr=0.1, depths=14,8",finished,60.0
labels only,report,1,"lr=0.1, depths=14,8",finished,50.0
taught,report,1,"lr=0.05, variant=uniform, shared=true",finished,53.0
taught,report,2,"lr=0.05, variant=uniform, shared=true",finished,62.0
taught,report,3,"lr=0.05, variant=uniform, shared=true",NotFinite,
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "results.csv").write_text(TABLE)
    return tmp_path


def test_accuracies_are_those_of_the_report_in_the_order_of_the_seeds(folder):
    assert recorded(folder).accuracies == {"labels only": [50.0, 60.0], "taught": [53.0, 62.0]}


def test_settings_have_their_types(folder):
    settings = recorded(folder).settings
    assert settings["taught"] == {"lr": 0.05, "variant": "uniform", "shared": True}
    assert settings["labels only"] == {"lr": 0.1, "depths": (14, 8)}


def test_differences_are_paired_by_seed(folder):
    gain = recorded(folder).difference("taught", "labels only")
    assert gain.mean == pytest.approx(2.5)  # of 3 and 2
    assert gain.high - gain.mean == pytest.approx(0.5 * 12.7062, rel=1e-4)  # t with one degree of freedom


def test_a_shipped_study_is_found_by_its_name():
    assert {len(runs) for runs in recorded("task").accuracies.values()} == {5}


@pytest.mark.parametrize(
    ("study", "words"), [("tusk", "Unknown study 'tusk'. Did you mean 'task'"), ("empty", "no results.csv")]
)
def test_a_missing_study_is_named(study, words, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=words):
        recorded(tmp_path / study if study == "empty" else study)


def test_an_unknown_arm_is_named(folder):
    with pytest.raises(InputError, match=r"Unknown arm 'tought'\. Did you mean 'taught'"):
        recorded(folder).difference("tought", "labels only")


def test_a_study_without_a_finished_run_is_refused(folder):
    (folder / "results.csv").write_text(TABLE.replace("finished", "NotFinite"))
    with pytest.raises(InputError, match="no finished run"):
        recorded(folder)
