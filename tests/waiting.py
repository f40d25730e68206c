"""Waits for what another process does."""

import time
from collections.abc import Callable

import pytest

PATIENCE = 300  # seconds; only a test that hangs waits so long


def wait_until(true: Callable[[], bool]) -> None:
    """Returns when ``true()`` holds, and fails the test if it never does."""
    for _ in range(10 * PATIENCE):
        if true():
            return
        time.sleep(0.1)
    pytest.fail("it never came true")
