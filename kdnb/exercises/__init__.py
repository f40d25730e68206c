"""The exercises of the notebooks.

``lesson(number)`` returns the exercises and questions of one notebook, ready to check answers.
"""

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
    """Returns the exercises and questions of one notebook, with nothing done yet.

    Args:
        number: Number of the notebook, such as ``"01"``.

    Returns:
        A new ``Lesson``, which shares no progress with others.

    Raises:
        InputError: If there is no notebook of that number. The message names the nearest one.
    """
    module = LESSONS[require_choice("lesson", number, LESSONS)]
    return Lesson(module.EXERCISES, module.QUESTIONS)


def show_source(thing: object) -> None:
    """Displays the source of a function or class in a notebook.

    The notebooks use it to show the library's version of an exercise, which is the answer key.

    Args:
        thing: A function, method or class.
    """
    from IPython.display import Code, display

    display(Code(inspect.getsource(thing), language="python"))
