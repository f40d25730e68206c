import pytest

from kdnb.exercises import LESSONS, Lesson, lesson, show_source
from kdnb.exercises.lesson import hashed

EXERCISES = [(number, name) for number, module in LESSONS.items() for name in module.EXERCISES]
MUTANTS = [
    (number, name, mutant) for number, name in EXERCISES for mutant in LESSONS[number].EXERCISES[name].mutants
]


def stub(*inputs):
    return ...


def test_there_are_exercises_to_do():
    assert len(EXERCISES) >= 5
    assert all(module.EXERCISES[name].mutants for module in LESSONS.values() for name in module.EXERCISES)


@pytest.mark.parametrize(("number", "name"), EXERCISES)
def test_the_reference_passes_and_is_used(number, name, capsys):
    course = lesson(number)
    reference = course.exercises[name].reference

    def own(*inputs):
        return reference(*inputs)

    assert course.check(name, own) is own
    assert capsys.readouterr().out == f"[passed] {name}: your version is used from here on.\n"


@pytest.mark.parametrize(("number", "name"), EXERCISES)
def test_a_stub_is_to_do_and_replaced(number, name, capsys):
    course = lesson(number)
    assert course.check(name, stub) is course.exercises[name].reference
    assert capsys.readouterr().out.startswith(f"[todo] {name}: not attempted yet")


@pytest.mark.parametrize(("number", "name", "mutant"), MUTANTS, ids=lambda x: getattr(x, "name", x))
def test_every_mutant_gets_its_own_hint(number, name, mutant, capsys):
    course = lesson(number)
    exercise = course.exercises[name]
    assert course.check(name, mutant.function) is exercise.reference
    word = "todo" if exercise.bug == mutant.name else "try again"
    assert capsys.readouterr().out == f"[{word}] {name}: {mutant.hint}\n"
    assert [other.hint for other in exercise.mutants].count(mutant.hint) == 1


def test_an_unforeseen_mistake_gets_the_general_advice(capsys):
    course = lesson("01")
    course.check("kd_loss", lambda s, t, T: (s * t).sum())
    assert capsys.readouterr().out.startswith("[try again] kd_loss: T**2 * F.kl_div")


@pytest.mark.parametrize("wrong", [lambda *x: 1 / 0, lambda *x: "text", lambda: None, lambda *x: None])
def test_broken_code_never_stops_the_notebook(wrong, capsys):
    course = lesson("01")
    assert course.check("kd_loss", wrong) is course.exercises["kd_loss"].reference
    assert "[try again] kd_loss: it raised" in capsys.readouterr().out


def test_grading_mode_raises(monkeypatch):
    monkeypatch.setenv("KDNB_STRICT", "1")
    with pytest.raises(AssertionError, match="not attempted yet"):
        lesson("00").check("correct", stub)
    course = lesson("00")
    assert course.check("correct", course.exercises["correct"].reference)


def test_a_bug_hunt_starts_with_its_bug(capsys):
    course = lesson("01")
    exercise = course.exercises["teacher_must_not_learn"]
    bug = next(mutant for mutant in exercise.mutants if mutant.name == exercise.bug)
    course.bug_hunt("teacher_must_not_learn", bug.function)
    assert "[todo] teacher_must_not_learn: the bug is still in there" in capsys.readouterr().out


def test_predictions_are_told_apart(capsys):
    course = Lesson({}, {"made_up": hashed("made_up", "b")})
    for answer in (..., "e", "a", " B "):
        course.predict("made_up", answer)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("]")[0] for line in lines] == ["[todo", "[todo", "[not this time", "[right"]


def test_any_prediction_counts_as_done_and_none_is_graded(capsys, monkeypatch):
    monkeypatch.setenv("KDNB_STRICT", "1")
    course = Lesson({}, {name: hashed(name, "b") for name in ("one", "two", "three")})
    course.predict("one", "a")
    course.predict("two", "b")
    course.predict("three", ...)
    capsys.readouterr()
    course.progress()
    assert capsys.readouterr().out == "2 of 3 done. Left: three.\n1 of 2 predictions were right.\n"


@pytest.mark.parametrize("number", LESSONS)
def test_every_question_has_one_answer_among_a_b_c(number):
    for question, key in LESSONS[number].QUESTIONS.items():
        assert [hashed(question, letter) == key for letter in "abc"].count(True) == 1


def test_progress_counts_and_names_what_is_left(capsys):
    course = lesson("00")
    course.check("correct", course.exercises["correct"].reference)
    capsys.readouterr()
    course.progress()
    total = len(course.exercises) + len(course.questions)
    line = capsys.readouterr().out
    assert line.startswith(f"1 of {total} done. Left: paired_difference, ")


def test_lessons_do_not_share_progress():
    one, two = lesson("00"), lesson("00")
    one.check("correct", one.exercises["correct"].reference)
    assert not two.done


def test_unknown_names_are_helped():
    with pytest.raises(ValueError, match="Did you mean 'kd_loss'"):
        lesson("01").check("kdloss", stub)
    with pytest.raises(ValueError, match="Unknown lesson '99'"):
        lesson("99")


def test_show_source_displays_the_answer_key(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    show_source(LESSONS["01"].EXERCISES["kd_loss"].reference)
    assert "log_softmax" in shown[0].data
