"""What ``kdnb run`` shows: progress while notebooks run, then their errors and a table."""

from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm

from kdnb.headless import Failure, Outcome, Progress, headline_text

_BAR = "{desc} |{bar:24}| {n_fmt:>3}/{total_fmt} cells {elapsed}"


class Display:
    """Shows the progress of notebooks.

    In a terminal each notebook has a progress bar. Elsewhere, as in a log file, each notebook has one line
    when it starts and one when it ends.

    Args:
        names: The names of the notebooks, in the order of their bars.

        stream: The stream to write to.
    """

    def __init__(self, names: list[str], stream: TextIO) -> None:
        self.stream = stream
        self.started: set[str] = set()
        self.width = max(len(name) for name in names)
        self.bars: dict[str, tqdm] = {}
        if stream.isatty():
            self.bars = {name: self._bar(name, place) for place, name in enumerate(names)}

    def _bar(self, name: str, place: int) -> tqdm:
        text = f"{name:{self.width}} waits "
        return tqdm(desc=text, total=1, position=place, bar_format=_BAR, file=self.stream)

    def show(self, event: Progress | Outcome) -> None:
        """Updates the display after one event.

        Args:
            event: What ``kdnb.headless.run`` has yielded.
        """
        name = event.notebook
        if isinstance(event, Outcome):
            self._finish(event)
        elif name not in self.started:
            self.started.add(name)
            if self.bars:
                self.bars[name].set_description_str(f"{name:{self.width}} runs  ", refresh=False)
                self.bars[name].reset(event.cells)
            else:
                self.stream.write(f"{name}: started, {event.cells} cells\n")
        elif self.bars:
            self.bars[name].n = event.done
            self.bars[name].refresh()
        self.stream.flush()

    def _finish(self, outcome: Outcome) -> None:
        name = outcome.notebook
        seconds = tqdm.format_interval(outcome.seconds)
        if not self.bars:
            self.stream.write(f"{name}: {outcome.status}, {seconds}\n")
            return
        bar = self.bars[name]
        bar.set_description_str(f"{name:{self.width}} {outcome.status:6}", refresh=False)
        bar.n = bar.n if outcome.failure else bar.total
        bar.bar_format = _BAR.replace("{elapsed}", seconds)  # otherwise its clock would go on
        bar.refresh()

    def close(self) -> None:
        """Ends all progress bars."""
        for bar in self.bars.values():
            bar.close()


def failure_text(outcome: Outcome) -> str:
    """Describes why a notebook failed.

    Args:
        outcome: The outcome of a notebook that failed.

    Returns:
        The number of the failing cell, the error, and its traceback.
    """
    failure = outcome.failure
    return (
        f"{outcome.notebook} failed at {_place(failure)}: {failure.ename}: {failure.evalue}\n"
        f"{failure.traceback}".rstrip()
    )


def _place(failure: Failure) -> str:
    return f"In [{failure.cell}]" if failure.cell else "the start"


def table(outcomes: Iterable[Outcome]) -> str:
    """Formats outcomes as a table in plain columns, with a row for each notebook.

    Args:
        outcomes: The outcomes in the order of the rows.

    Returns:
        The lines of the table: notebook, status, time and headline numbers.
    """
    rows = [("notebook", "status", "time", "headline")]
    for outcome in outcomes:
        numbers = headline_text(outcome.headline)
        if outcome.failure:
            numbers = f"{_place(outcome.failure)}: {outcome.failure.ename}"
        seconds = tqdm.format_interval(outcome.seconds)
        rows.append((outcome.notebook, outcome.status, seconds, numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    )
