"""The store's clock."""

from __future__ import annotations

import time

import pytest

from agentlightning.store import clock
from agentlightning.store.clock import Clock


def test_it_begins_with_the_wall_clock_and_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch):
    wall = time.time()
    mine = Clock()
    assert abs(mine.now() - wall) < 60
    monkeypatch.setattr(clock.time, "time", lambda: 0.0)
    first = mine.now()
    assert abs(first - wall) < 60
    assert mine.now() >= first


def test_it_takes_the_time_of_a_database():
    assert 1000 <= Clock(1000.0).now() < 1060
