"""Exercises for the notebooks: ``lesson(number)`` gives the checks of one notebook."""

import inspect

from kdnb.errors import require_choice
from kdnb.exercises import dark_knowledge, ddnn, ecd, ffsd, looking_inside, semckd, srrl, start_here
from kdnb.exercises.lesson import Exercise, Lesson, Mutant

__all__ = ["LESSONS", "Exercise", "Lesson", "Mutant", "lesson", "show_source"]

LESSONS = {
    "00": start_here,
    "01": dark_knowledge,
    "02": looking_inside,
    "03": srrl,
    "04": semckd,
    "05": ffsd,
    "06": ecd,
    "07": ddnn,
}


def lesson(number: str) -> Lesson:
    """A fresh Lesson for notebook ``number``, such as ``"01"``: nothing is done yet."""
    module = LESSONS[require_choice("lesson", number, LESSONS)]
    return Lesson(module.EXERCISES, module.QUESTIONS)


def show_source(thing: object) -> None:
    """Displays the source of a function or class of the library: the answer key."""
    from IPython.display import Code, display

    display(Code(inspect.getsource(thing), language="python"))
