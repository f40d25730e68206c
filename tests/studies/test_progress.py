"""What is finished, what an arm has chosen, and what can start, is read from the folder of the runs."""

import json

import pytest
from small_study import finish, pretend, small_study

from kdnb.errors import InputError
from kdnb.studies import Failed, Finished, Progress
from kdnb.studies.progress import FAILURE

SCORES = {"labels only": 50.0, "kd": 55.0, "alone": 70.0}


def of(progress: Progress, method: str) -> list:
    return [spec for spec in progress.ready().values() if spec.method == method]


def test_an_arm_waits_for_its_teacher(tmp_path):
    progress = Progress(small_study(), tmp_path)
    assert len(progress.ready()) == 6  # two searches of three
    assert not of(progress, "kd")


def test_the_search_of_a_student_has_the_chosen_teacher_of_its_seed(tmp_path):
    progress = Progress(small_study(), tmp_path)
    for spec in progress.ready().values():
        pretend(tmp_path, spec, validation=60.0 if spec.lr == 0.1 else 40.0)
    alone = progress.study.arms["alone"]
    assert progress.choice(alone) == {"lr": 0.1}
    teachers = {spec.teacher for spec in of(progress, "kd")}
    [(_, _, chosen)] = [run for run in progress.searched(alone) if run[0] == {"lr": 0.1}]
    assert teachers == {chosen.name}


def test_the_reported_student_learns_from_the_teacher_of_its_seed(tmp_path):
    progress = Progress(small_study(), tmp_path)
    finish(progress, SCORES)
    teachers = {seed: spec.name for seed, spec in progress.reported(progress.study.arms["alone"])}
    for seed, spec in progress.reported(progress.study.arms["kd"]):
        assert spec.teacher == teachers[seed]


def test_a_short_search_tries_every_arm_for_the_same_share_and_its_teachers_are_whole(tmp_path):
    study = small_study(
        all={"data": "shapes", "size": 8, "epochs": 6, "batch_size": 8},
        search={"seeds": [0], "values": {"lr": [0.05, 0.1]}, "share_of_epochs": 0.3},
    )
    progress = Progress(study, tmp_path)
    assert {spec.epochs for spec in progress.ready().values()} == {2}
    for spec in progress.ready().values():
        pretend(tmp_path, spec)
    wanted = [spec for spec in progress.ready().values() if spec.seed == 0]
    assert [(spec.student, spec.epochs) for spec in wanted] == [("resnet14", 6)]
    pretend(tmp_path, wanted[0])
    searched = [spec for _, _, spec in progress.searched(study.arms["kd"])]
    assert {(spec.epochs, spec.teacher) for spec in searched} == {(2, wanted[0].name)}
    for arm in study.arms.values():
        assert {spec.epochs for _, spec in progress.reported(arm) if spec is not None} <= {6}


def test_the_first_of_equal_trials_is_chosen(tmp_path):
    progress = Progress(small_study(), tmp_path)
    for spec in progress.ready().values():
        pretend(tmp_path, spec)
    assert progress.choice(progress.study.arms["alone"]) == {"lr": 0.01}


def test_a_trial_is_judged_by_its_mean_over_the_seeds(tmp_path):
    study = small_study(search={"seeds": [0, 1], "values": {"lr": [0.01, 0.1]}})
    progress = Progress(study, tmp_path)
    scores = {(0.01, 0): 90.0, (0.01, 1): 10.0, (0.1, 0): 55.0, (0.1, 1): 55.0}
    for spec in progress.ready().values():
        pretend(tmp_path, spec, validation=scores[spec.lr, spec.seed])
    assert progress.scores(study.arms["alone"]) == [50.0, 55.0]
    assert progress.choice(study.arms["alone"]) == {"lr": 0.1}


def test_a_trial_that_failed_is_not_chosen(tmp_path):
    progress = Progress(small_study(), tmp_path)
    for spec in progress.ready().values():
        if spec.lr == 0.05:
            progress.note_failure(spec, "NotFinite", "student/label is nan")
        else:
            pretend(tmp_path, spec, validation=spec.lr)
    assert progress.scores(progress.study.arms["alone"]) == [0.01, float("-inf"), 0.1]
    assert progress.choice(progress.study.arms["alone"]) == {"lr": 0.1}


def test_an_arm_whose_trials_all_failed_stops_those_that_learn_from_it(tmp_path):
    progress = Progress(small_study(), tmp_path)
    for spec in progress.ready().values():
        if spec.student == "resnet14":
            progress.note_failure(spec, "NotFinite", "nan")
        else:
            pretend(tmp_path, spec)
    assert {spec.method for spec in progress.ready().values()} == {"labels-only"}
    assert progress.choice(progress.study.arms["alone"]) is None


def test_only_a_failure_that_would_repeat_itself_is_kept(tmp_path):
    progress = Progress(small_study(), tmp_path)
    first, second, *_ = progress.ready().values()
    progress.note_failure(first, "NotFinite", "nan")
    progress.note_failure(second, "OSError", "the disk is gone")
    assert isinstance(progress.outcome(second), Failed)
    progress.forget_failures()
    assert progress.outcome(first) == Failed("NotFinite", "nan")
    assert progress.outcome(second) is None


def test_a_seed_that_is_added_brings_new_runs_only(tmp_path):
    finish(Progress(small_study(), tmp_path), SCORES)
    more = Progress(small_study(seeds=(10, 11, 12, 13)), tmp_path)
    assert {(spec.seed, spec.student) for spec in more.ready().values()} == {
        (13, "resnet8"),
        (13, "resnet14"),
    }


def test_arms_with_one_spec_share_their_runs(tmp_path):
    arms = {name: {"method": "labels-only", "learner": "student"} for name in ("labels only", "again")}
    assert len(Progress(small_study(arms=arms), tmp_path).ready()) == 3


def test_a_teacher_without_a_search_is_trained_on_the_seeds_of_the_search_too(tmp_path):
    arms = {
        "labels only": {"method": "labels-only", "search": {"lr": [0.1]}},
        "alone": {"method": "labels-only", "student": "resnet14", "search": {"lr": [0.1]}},
        "kd": {"method": "kd", "teacher_arm": "alone", "search": {"lr": [0.1]}},
    }
    progress = Progress(small_study(arms=arms, seeds=(10,)), tmp_path)
    finish(progress, SCORES)
    assert progress.study.searches is False


def test_another_learner_is_counted_on_request(tmp_path):
    arms = {name: {"method": "labels-only", "learner": "studnt"} for name in ("labels only", "again")}
    progress = Progress(small_study(arms=arms), tmp_path)
    for spec in progress.ready().values():
        pretend(tmp_path, spec)
    with pytest.raises(InputError, match=r"learner of arm 'labels only' 'studnt'. Did you mean 'student'"):
        progress.choice(progress.study.arms["labels only"])


def test_a_run_under_another_default_is_not_taken(tmp_path):
    arms = {"labels only": {"method": "labels-only"}, "kd": {"method": "kd"}}
    progress = Progress(small_study(arms=arms), tmp_path)
    spec = of(progress, "kd")[0]
    pretend(tmp_path, spec, options=spec.all_options | {"temperature": 5.0})
    with pytest.raises(InputError, match=r"temperature=5\.0, the default of its day"):
        progress.outcome(spec)


@pytest.mark.parametrize("name", ["history.csv", FAILURE])
def test_a_damaged_file_is_named(tmp_path, name):
    progress = Progress(small_study(), tmp_path)
    spec = next(iter(progress.ready().values()))
    if name == FAILURE:
        (tmp_path / spec.name).mkdir()
    else:
        pretend(tmp_path, spec)
    (tmp_path / spec.name / name).write_text("{")
    with pytest.raises(InputError, match="Remove"):
        progress.outcome(spec)


def test_a_failure_is_readable(tmp_path):
    progress = Progress(small_study(), tmp_path)
    spec = next(iter(progress.ready().values()))
    progress.note_failure(spec, "InputError", "no such folder")
    found = json.loads((tmp_path / spec.name / FAILURE).read_text())
    assert found == {"kind": "InputError", "message": "no such folder"}


def test_a_finished_run_is_no_longer_a_failure(tmp_path):
    progress = Progress(small_study(), tmp_path)
    spec = next(iter(progress.ready().values()))
    progress.note_failure(spec, "OSError", "full")
    pretend(tmp_path, spec)
    assert isinstance(Progress(progress.study, tmp_path).outcome(spec), Finished)
