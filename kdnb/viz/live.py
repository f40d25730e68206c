"""Shows how far a training is, in one line that is drawn anew."""


class Progress:
    """A line below a cell that says which epoch is done and how well it went.

    Args:
        total: Number of epochs.

    Example:
        >>> line = Progress(40)
        >>> line.text(12, loss=0.8312, accuracy=71.25)
        'epoch 12 of 40, loss 0.831, accuracy 71.2'
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._handle = None

    def update(self, done: int, **numbers: float) -> None:
        """Shows the line, in place of the one before.

        Args:
            done: Number of epochs that are done.

            numbers: What is shown beside it, such as ``loss=0.83``.
        """
        from IPython.display import display

        text = self.text(done, **numbers)
        bar = f'<progress value="{done}" max="{self.total}"></progress> {text}'
        content = {"text/plain": text, "text/html": bar}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def text(self, done: int, **numbers: float) -> str:
        """The line in words.

        Args:
            done: As in ``update``.

            numbers: As in ``update``.
        """
        shown = [f"{name} {value:.3g}" for name, value in numbers.items()]
        return ", ".join([f"epoch {done} of {self.total}", *shown])
