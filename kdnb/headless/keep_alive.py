"""A remedy for notebook kernels that wait for ever beside a request that they have not read."""

import asyncio

from jupyter_client import AsyncKernelClient, AsyncKernelManager

MOMENT = 1.0  # seconds that a visitor's connection stays open, long enough for its request to be sent


class KeepAlive:
    """Visits the kernel at regular intervals, from the first cell to the end of the run.

    On a busy machine a request may stay unread in the kernel's socket: the socket announces that something
    has come, and the announcement is lost. Kernel and client then wait for each other for ever. (See
    github.com/ipython/ipykernel/issues/1554.) More requests over the same connection do not help, because a
    connection whose first message lies unread is not announced again. A new connection is announced, and
    then the kernel reads whatever has come. A kernel that is at work answers a visitor after the cell, when
    the visitor is gone.

    Args:
        manager: The manager of the kernel.

        interval: Seconds between two visits.
    """

    def __init__(self, manager: AsyncKernelManager, *, interval: float = 30.0) -> None:
        self.manager = manager
        self.interval = interval
        self._visiting: asyncio.Task | None = None

    def begin(self) -> None:
        """Starts the visits, unless that has been done.

        Call it in the event loop that serves the client's sockets. The visits go on after the last cell,
        because the client then asks the kernel for the name of its language and waits for the answer.
        """
        if self._visiting is None:
            self._visiting = asyncio.get_running_loop().create_task(self._visit())

    def end(self) -> None:
        """Stops the visits, because the run is over."""
        if self._visiting is not None:
            self._visiting.cancel()

    async def _visit(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            visitor = AsyncKernelClient()  # of a name of its own: the manager's clients all share one
            visitor.load_connection_info(self.manager.get_connection_info())
            visitor.start_channels(iopub=False, stdin=False, hb=False, control=False)
            try:
                visitor.kernel_info()
                await asyncio.sleep(MOMENT)
            finally:
                visitor.stop_channels()
