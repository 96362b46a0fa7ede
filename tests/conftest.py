"""For all tests."""

from __future__ import annotations

import signal

import pytest


def pytest_configure() -> None:
    """A shell that starts the tests in the background has Ctrl-C ignored, also by what the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults first: they wait more than they compute, so one worker goes through them while another computes. At the
    end both workers would wait."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/faults/"))
