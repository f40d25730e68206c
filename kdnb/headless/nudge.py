"""Keeps a kernel from sleeping over a request."""

import asyncio

from jupyter_client import AsyncKernelClient, AsyncKernelManager


class Nudge:
    """Asks the kernel a harmless question every ``patience`` seconds while a cell is open.

    On a busy machine a request, or its reply, may lie unread in a socket until the next message comes
    (github.com/ipython/ipykernel/issues/1554 is one way), and then kernel and client wait for each
    other for ever. The question is that message; a kernel at work answers it after the cell.
    """

    def __init__(self, manager: AsyncKernelManager, *, patience: float = 30.0) -> None:
        self.patience = patience
        self._client: AsyncKernelClient | None = None
        self._asking: asyncio.Task | None = None
        make_client = manager.client

        def client(**options: object) -> AsyncKernelClient:
            self._client = make_client(**options)
            return self._client

        manager.client = client

    def begin(self, **_: object) -> None:
        """A cell is about to be sent; called in the loop that serves the client's sockets."""
        self._asking = asyncio.get_running_loop().create_task(self._ask())

    def end(self, **_: object) -> None:
        """The cell's reply has come."""
        self._asking.cancel()

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(self.patience)
            self._client.kernel_info()
