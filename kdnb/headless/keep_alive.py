"""A remedy for notebook kernels and clients that wait for each other for ever."""

import asyncio

from jupyter_client import AsyncKernelClient, AsyncKernelManager


class KeepAlive:
    """Sends the kernel a harmless request at regular intervals, from the first cell to the end of the run.

    On a busy machine a request or its reply may stay unread in a socket until the next message arrives.
    (One way in which this happens is github.com/ipython/ipykernel/issues/1554.) Kernel and client then wait
    for each other for ever. The harmless request is that next message. A kernel that is at work answers it
    after the cell.

    Args:
        manager: The manager of the kernel. Its ``client`` method is wrapped, to learn which client is used.

        interval: Seconds between two requests.
    """

    def __init__(self, manager: AsyncKernelManager, *, interval: float = 30.0) -> None:
        self.interval = interval
        self._client: AsyncKernelClient | None = None
        self._asking: asyncio.Task | None = None
        make_client = manager.client

        def client(**options: object) -> AsyncKernelClient:
            self._client = make_client(**options)
            return self._client

        manager.client = client

    def begin(self, **_: object) -> None:
        """Starts sending requests, unless that has been done.

        Call it in the event loop that serves the client's sockets. The requests go on after the last cell,
        because the client then asks the kernel for the name of its language and waits for the answer.
        """
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    def end(self) -> None:
        """Stops sending requests, because the run is over."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            self._client.kernel_info()
