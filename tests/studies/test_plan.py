"""A study file is checked whole before anything runs."""

import copy

import pytest

from kdnb.errors import InputError
from kdnb.studies import read_study, study_of

CONTENT = {
    "title": "Does KD help?",
    "baseline": "labels only",
    "seeds": [10, 11],
    "all": {"data": "shapes", "epochs": 2},
    "search": {"seeds": [0], "values": {"lr": [0.05, 0.1]}},
    "arms": {
        "kd": {"method": "kd", "teacher_arm": "alone", "options": {"temperature": 2}},
        "labels only": {"method": "labels-only"},
        "alone": {"method": "labels-only", "student": "resnet20", "epochs": 3},
    },
}


def changed(*path: str, value: object) -> dict:
    """``CONTENT`` with one entry changed or added."""
    content = copy.deepcopy(CONTENT)
    table = content
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value
    return content


def test_every_arm_comes_behind_its_teacher():
    assert list(study_of(CONTENT).arms) == ["alone", "kd", "labels only"]


def test_an_arm_has_the_settings_for_all_then_its_own():
    arms = study_of(CONTENT).arms
    assert (arms["kd"].spec.epochs, arms["alone"].spec.epochs) == (2, 3)
    assert arms["kd"].spec.options == {"temperature": 2.0}


def test_a_run_has_the_values_of_its_trial_its_seed_and_its_teacher():
    arm = study_of(CONTENT).arms["kd"]
    run = arm.run(arm.trials[1], 11, "the-teachers-run")
    assert (run.lr, run.seed, run.teacher, run.epochs) == (0.1, 11, "the-teachers-run", 2)


def test_an_arm_may_search_other_values_as_often():
    content = changed("arms", "kd", "search", value={"temperature": [2, 8]})
    trials = study_of(content).arms["kd"].trials
    assert trials == ({"temperature": 2}, {"temperature": 8})


def test_trials_are_drawn_alike_for_equal_values():
    content = changed("search", "values", value={"lr": [0.01, 0.03, 0.1], "weight_decay": [0.0, 1e-4]})
    content["search"]["trials"] = 4
    arms = study_of(content).arms.values()
    first, *others = (arm.trials for arm in arms)
    assert len({tuple(trial.items()) for trial in first}) == 4
    assert all(trials == first for trials in others)


def test_all_runs_are_counted():
    assert study_of(CONTENT).most_runs == 3 * (2 + 2)


def test_without_a_search_every_arm_has_one_trial():
    content = copy.deepcopy(CONTENT)
    del content["search"]
    study = study_of(content)
    assert not study.searches
    assert study.most_runs == 6


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("sedes",), [1], "Unknown entry of a study 'sedes'. Did you mean 'seeds'"),
        (("all", "epoch"), 3, r"Unknown setting in \[all\] 'epoch'. Did you mean 'epochs'"),
        (("all", "seed"), 3, r"Unknown setting in \[all\] 'seed'"),
        (("arms", "kd", "teachr"), "x", "Unknown entry of arm 'kd' 'teachr'"),
        (("arms", "kd", "method"), "kdd", "Arm 'kd': Unknown method 'kdd'. Did you mean 'kd'"),
        (("arms", "kd", "options"), {"temprature": 2}, "Arm 'kd': Unknown option of kd 'temprature'"),
        (("arms", "kd", "options"), {"temperature": "warm"}, "Arm 'kd': temperature is a float"),
        (("arms", "kd", "epochs"), "many", "Arm 'kd': epochs must be a number"),
        (("arms", "kd", "student"), "resnet21", "Arm 'kd': Unknown network 'resnet21'"),
        (("arms", "kd", "teacher_arm"), "alne", "Unknown teacher_arm of 'kd' 'alne'. Did you mean 'alone'"),
        (("arms", "kd", "teacher"), "file", "Arm 'kd' has a teacher and a teacher_arm"),
        (("arms", "labels only", "teacher_arm"), "alone", "labels-only has no teacher"),
        (("arms", "kd"), "kd", "Arm 'kd' must be a table"),
        (("arms", "kd"), {"lr": 0.1}, "Arm 'kd' has no method"),
        (("arms",), {"labels only": {"method": "labels-only"}}, "compares at least two arms, found 1"),
        (("baseline",), "labels", "Unknown arm as the baseline 'labels'. Did you mean 'labels only'"),
        (("seeds",), [], "seeds must be a list of different whole numbers, at least one"),
        (("seeds",), [1, 1], "different whole numbers"),
        (("seeds",), [1.5], "different whole numbers"),
        (("seeds",), [0, 10], "Seed 0 is in the search and among the reported seeds"),
        (("search", "part"), "test", "judged on the validation part alone, found part = 'test'"),
        (("search", "sedes"), [1], r"Unknown entry of \[search\] 'sedes'"),
        (("search", "seeds"), None, r"\[search\] seeds must be a list"),
        (("search", "values"), {"lr": 0.1}, "a list of values for each setting or option"),
        (("search", "values"), {"lr": []}, "a list of values for each setting or option"),
        (("search", "values"), {"seed": [1, 2]}, "a search over seed would choose a lucky run"),
        (("search", "values"), {"lrr": [1, 2]}, "Unknown setting or option in a search 'lrr'"),
        (("search", "values"), {"lr": [0.1, -1]}, "lr must be above 0, found -1"),
        (("search", "trials"), 3, "trials must be a whole number from 1 to 2, found 3"),
        (("search", "share_of_epochs"), 0, "share_of_epochs .* above 0 and at most 1, found 0"),
        (("search", "share_of_epochs"), 1.5, "share_of_epochs .* found 1.5"),
        (("search", "share_of_epochs"), "half", "share_of_epochs .* found 'half'"),
        (("arms", "kd", "search"), {"lr": [0.1]}, "'kd' has 1"),
        (("evaluate_every",), 0, "evaluate_every must be a whole number, at least 1, found 0"),
        (("all",), 3, r"\[all\] must be a table, found 3"),
    ],
)
def test_what_cannot_be_run_is_refused(path, value, words):
    with pytest.raises(InputError, match=words):
        study_of(changed(*path, value=value))


def test_arms_that_wait_for_each_other_are_refused():
    content = changed("arms", "alone", value={"method": "kd", "teacher_arm": "kd"})
    with pytest.raises(InputError, match=r"kd -> alone -> kd. Cut the circle"):
        study_of(content)


def test_a_file_is_read(tmp_path):
    (tmp_path / "study.toml").write_text(
        'baseline = "a b"\nseeds = [1]\n[arms."a b"]\nmethod = "labels-only"\n[arms.ecd]\nmethod = "ecd"\n'
        'options = {links = ["conv1", "conv2"]}\n'
    )
    study = read_study(tmp_path / "study.toml")
    assert study.arms["ecd"].spec.options == {"links": ("conv1", "conv2")}


@pytest.mark.parametrize("content", [None, b"seeds = [1,", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="not a study file that can be read"):
        read_study(path)
