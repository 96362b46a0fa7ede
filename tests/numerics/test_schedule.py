"""Learning-rate schedules at points worked out by hand."""

import pytest

from agentlightning.learner.schedule import Schedule


def test_constant_with_warmup_starts_at_zero():
    assert [Schedule(10, 4)(step) for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]


def test_cosine_goes_from_one_to_the_floor():
    schedule = Schedule(12, 2, "cosine", min_lr_ratio=0.1)
    assert schedule(2) == pytest.approx(1.0)
    assert schedule(7) == pytest.approx(0.55)  # half way: (1 + 0.1) / 2
    assert schedule(12) == pytest.approx(0.1)


def test_a_whole_cycle_comes_back():
    assert Schedule(10, 0, "cosine", num_cycles=1.0)(10) == pytest.approx(1.0)
