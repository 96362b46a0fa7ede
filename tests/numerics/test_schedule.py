"""Learning-rate schedules at points worked out by hand."""

import math

import pytest

from agentlightning.learner.schedule import Schedule


def test_constant_with_warmup_starts_at_zero():
    assert [Schedule(10, 4)(step) for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]


def test_without_warmup_the_first_step_is_whole():
    assert Schedule(10)(0) == 1.0
    assert Schedule(10, 0, "cosine")(0) == 1.0


def test_cosine_goes_from_one_to_the_floor():
    schedule = Schedule(12, 2, "cosine", min_lr_ratio=0.1)
    assert [schedule(0), schedule(1)] == [0.0, 0.5]
    assert schedule(2) == pytest.approx(1.0)
    assert schedule(7) == pytest.approx(0.55)  # half way: (1 + 0.1) / 2
    assert schedule(12) == pytest.approx(0.1)


def test_cosine_at_a_third_of_the_way():
    """cos(pi / 3) = 1/2, so 1/2 (1 - r) / 2 + (1 + r) / 2 with r = 0.2 is 0.2 + 0.6."""
    assert Schedule(9, 0, "cosine", min_lr_ratio=0.2)(3) == pytest.approx(0.8)


def test_a_whole_cycle_comes_back():
    assert Schedule(10, 0, "cosine", num_cycles=1.0)(10) == pytest.approx(1.0)


def test_beyond_its_end_the_cosine_stays_above_the_floor():
    schedule = Schedule(10, 0, "cosine", min_lr_ratio=0.25)
    assert all(schedule(step) >= 0.25 for step in range(40))


def test_a_run_that_is_all_warmup_never_divides_by_zero():
    schedule = Schedule(4, 4, "cosine")
    assert [schedule(step) for step in range(4)] == [0.0, 0.25, 0.5, 0.75]
    assert math.isfinite(schedule(4))
