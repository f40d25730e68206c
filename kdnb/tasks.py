"""What a task on a Dask worker asks about itself."""


def cancelled() -> bool:
    """Whether nobody waits any longer for the task that this thread of a Dask worker computes.

    Dask cannot stop a task that runs, so a long task asks now and then. It was cancelled, which also happens
    when the one who gave it dies. Or the worker closes, as it does when its scheduler dies; it would wait for
    the end of the task.
    """
    from distributed import Status, get_worker

    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is None or task.state == "cancelled" or worker.status in (Status.closing, Status.closed)
