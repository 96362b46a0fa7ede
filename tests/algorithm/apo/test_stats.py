"""Intervals and paired tests against numbers from closed forms and tables."""

from __future__ import annotations

import itertools
import math

import pytest

from agentlightning.algorithm.apo.stats import (
    bernstein_radius,
    compare,
    mean_interval,
    paired_p,
    sign_p,
    t_quantile,
)


@pytest.mark.parametrize(
    ("freedom", "level", "quantile"),
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.3027),
        (3, 0.9, 2.3534),
        (10, 0.95, 2.2281),
        (10, 0.99, 3.1693),
        (30, 0.95, 2.0423),
    ],
)
def test_t_quantiles_are_those_of_the_tables(freedom: int, level: float, quantile: float) -> None:
    assert t_quantile(level, freedom) == pytest.approx(quantile, abs=5e-5)


def test_rewards_of_0_and_1_get_wilsons_interval() -> None:
    # Newcombe 1998, table I: 81 of 263 has 0.2553 to 0.3662; 0 of 20 reaches z^2 / (n + z^2).
    interval = mean_interval([1] * 81 + [0] * 182)
    assert (interval.low, interval.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    none = mean_interval([0] * 20)
    assert none.low == 0
    assert none.high == pytest.approx(1.959964**2 / (20 + 1.959964**2), abs=1e-6)
    assert none.method == "wilson"


def test_other_rewards_get_students_interval() -> None:
    interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * math.sqrt(5 / 3) / 2
    assert (interval.low, interval.high) == (pytest.approx(2.5 - half, abs=1e-5), pytest.approx(2.5 + half, abs=1e-5))
    assert interval.method == "t"


def test_one_graded_reward_says_nothing_about_the_mean() -> None:
    interval = mean_interval([0.3])
    assert (interval.mean, interval.low, interval.high) == (0.3, -math.inf, math.inf)


def test_students_interval_ends_where_rewards_do() -> None:
    inside = mean_interval([0.0, 0.0, 0.5], bounds=(0.0, 1.0))
    assert (inside.low, inside.method) == (0.0, "t")
    assert inside.high == mean_interval([0.0, 0.0, 0.5]).high < 1.0
    one = mean_interval([0.5], bounds=(0.0, 1.0))
    assert (one.low, one.high) == (0.0, 1.0)
    found = compare([0.1, 0.0], [0.9, 0.2], bounds=(0.0, 1.0))
    assert (found.low, found.high) == (-1.0, 1.0)


def test_no_rewards_have_no_mean() -> None:
    with pytest.raises(ValueError, match="values"):
        mean_interval([])


def test_the_sign_test_is_binomial() -> None:
    assert sign_p(6, 0) == pytest.approx(2 / 64)
    assert sign_p(6, 0, greater=True) == pytest.approx(1 / 64)
    assert sign_p(1, 7) == pytest.approx(2 * 9 / 256)
    assert sign_p(1, 7, greater=True) == pytest.approx(255 / 256)
    assert sign_p(3, 3) == 1
    assert sign_p(0, 0) == 1


def test_the_permutation_test_counts_all_sign_patterns() -> None:
    differences = [0.3, -0.1, 0.6, 0.2, 0.0]
    moved = [0.3, 0.1, 0.6, 0.2]
    sums = [sum(s * d for s, d in zip(signs, moved, strict=True)) for signs in itertools.product((1, -1), repeat=4)]
    assert paired_p(differences) == (sum(abs(s) >= 1 - 1e-9 for s in sums) / 16, "permutation")
    assert paired_p(differences, greater=True)[0] == sum(s >= 1 - 1e-9 for s in sums) / 16


def test_many_differences_are_drawn_and_agree_with_the_exact_count() -> None:
    # The sum is 14.001. With the odd one on its side the other 31 must reach 13 (22 of them up), against it 15.002,
    # which with 31 whole numbers means 17 (24 up).
    expected = (sign_p(22, 9, greater=True) + sign_p(24, 7, greater=True)) / 2
    drawn = paired_p([1.0] * 22 + [-1.0] * 8 + [-1.0, 1.001], greater=True)
    assert drawn == (pytest.approx(expected, abs=0.002), "permutation")
    assert drawn == paired_p([1.0] * 22 + [-1.0] * 8 + [-1.0, 1.001], greater=True)


def test_a_comparison_counts_and_has_an_interval() -> None:
    result = compare([0, 0, 1, 0], [1, 1, 1, 0])
    assert (result.wins, result.losses, result.ties, result.n) == (2, 0, 2, 4)
    assert (result.difference, result.p, result.method) == (0.5, 0.5, "sign")
    # Bonett and Price: (b + 1) / (n + 2) = 3/6, (c + 1) / (n + 2) = 1/6.
    half = 1.959964 * math.sqrt((4 / 6 - (2 / 6) ** 2) / 6)
    assert (result.low, result.high) == (pytest.approx(1 / 3 - half, abs=1e-6), pytest.approx(1 / 3 + half, abs=1e-6))


def test_two_that_agree_everywhere_are_not_known_to_be_equal() -> None:
    result = compare([1, 0, 1], [1, 0, 1])
    assert result.p == 1
    assert result.low < 0 < result.high


def test_graded_differences_get_students_interval() -> None:
    result = compare([0.1, 0.2, 0.3], [0.4, 0.1, 0.9])
    spread = math.sqrt(((0.3 - 0.8 / 3) ** 2 + (-0.1 - 0.8 / 3) ** 2 + (0.6 - 0.8 / 3) ** 2) / 2 / 3)
    assert result.high == pytest.approx(0.8 / 3 + 4.302653 * spread, abs=1e-5)


def test_pairs_need_two_of_each() -> None:
    with pytest.raises(ValueError, match="`first` has 1 values and `second` 2"):
        compare([1], [1, 2])


def test_the_bernstein_radius_is_the_published_one() -> None:
    values = [0, 1] * 50
    expected = math.sqrt(2 * 0.25 * math.log(30) / 100) + 3 * math.log(30) / 100
    assert bernstein_radius(values, 0.1, 1) == pytest.approx(expected)
