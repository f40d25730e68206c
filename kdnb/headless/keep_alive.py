"""Remedies for a notebook's kernel and client that wait for each other for ever.

A ZeroMQ socket announces that a message has come only once. The announcement is lost if the program sends
over the same socket at that moment. It happens beside widgets, whose outputs nbclient sends back to the
kernel while it waits for the end of the cell, and in ipykernel 7 (github.com/ipython/ipykernel/issues/1554).
The message then lies in the socket, and later ones over the same connection are not announced either.
"""

import asyncio

import zmq
from jupyter_client import AsyncKernelClient, AsyncKernelManager

LOOK = 1.0  # seconds between two looks into the client's sockets
MOMENT = 1.0  # seconds that a visitor's connection stays open, long enough for its request to be sent


class KeepAlive:
    """Looks after the connections of a kernel and its client, from the first cell to the end of the run.

    Messages that lie in the client's sockets are found by looking. Those in the kernel's socket are found by
    the kernel itself when somebody new connects, because a new connection is announced. A kernel that is at
    work answers such a visitor after the cell, when the visitor is gone.

    Args:
        manager: The manager of the kernel. Its ``client`` method is wrapped, to learn which client is used.

        interval: Seconds between two visits to the kernel.
    """

    def __init__(self, manager: AsyncKernelManager, *, interval: float = 30.0) -> None:
        self.manager = manager
        self.interval = interval
        self._client: AsyncKernelClient | None = None
        self._tasks: list[asyncio.Task] = []
        make_client = manager.client

        def client(**options: object) -> AsyncKernelClient:
            self._client = make_client(**options)
            return self._client

        manager.client = client

    def begin(self) -> None:
        """Starts the looks and visits, unless that has been done.

        Call it in the event loop that serves the client's sockets. They go on after the last cell, because
        the client then asks the kernel for the name of its language and waits for the answer.
        """
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._look()), loop.create_task(self._visit())]

    def end(self) -> None:
        """Stops the looks and visits, because the run is over."""
        for task in self._tasks:
            task.cancel()

    async def _look(self) -> None:
        sockets = [self._client.shell_channel.socket, self._client.iopub_channel.socket]
        while True:
            await asyncio.sleep(LOOK)
            for socket in sockets:
                socket.get(zmq.EVENTS)  # an asyncio socket that is asked what has come hands it on

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
