"""For all tests."""

from __future__ import annotations

import os
import signal

import pytest


def pytest_configure() -> None:
    """A shell that starts the tests in the background has Ctrl-C ignored, also by what the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A worker for each core: three at least, as fault tests wait more than they compute, and eight at most."""
    return min(max(os.cpu_count() or 1, 3), 8)
