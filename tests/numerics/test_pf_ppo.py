"""Rows drawn again by their score: probabilities by hand, and frequencies of draws."""

from __future__ import annotations

import numpy as np
import pytest

from agentlightning.learner.advantages import pf_ppo_rows, pf_ppo_weights
from agentlightning.types import ConfigError


@pytest.mark.parametrize(
    ("method", "power", "weights"),
    [
        ("pow", 2.0, [1.0, 9.0, 0.0, 4.0]),
        ("pow", 1.0, [1.0, 3.0, 0.0, 2.0]),
        ("max_min", 2.0, [0.0, 1.0, 0.0, 1.0]),
        ("max_random", 2.0, [0.1, 0.1, 0.1, 0.4]),
    ],
)
def test_weights_by_hand(method: str, power: float, weights: list[float]):
    scores = np.array([1.0, -3.0, 0.0, 2.0])
    expected = (np.array(weights) + 1e-8) / (sum(weights) + 4e-8)
    np.testing.assert_allclose(pf_ppo_weights(scores, method, power), expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["pow", "max_min", "max_random"])
def test_equal_scores_weigh_the_same(method: str):
    np.testing.assert_allclose(pf_ppo_weights(np.zeros(4), method), [0.25] * 4)


def test_rows_are_drawn_with_replacement_by_their_weight():
    scores = np.tile([1.0, 2.0, 0.0], 2000)
    rows = pf_ppo_rows(scores, np.random.default_rng(0), weight_pow=2.0)
    assert rows.shape == scores.shape
    counts = np.bincount(rows % 3, minlength=3) / len(rows)
    np.testing.assert_allclose(counts, [0.2, 0.8, 0.0], atol=0.02)
    assert len(np.unique(rows)) < len(rows)


def test_a_seed_gives_the_same_rows():
    scores = np.arange(20.0)
    first, second, other = (pf_ppo_rows(scores, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.tolist() == second.tolist() != other.tolist()


def test_no_rows_give_no_rows():
    assert pf_ppo_rows(np.zeros(0), np.random.default_rng(0)).tolist() == []


def test_wrong_methods_and_scores_are_named():
    with pytest.raises(ConfigError, match="'min' is not one of pow, max_min, max_random"):
        pf_ppo_weights(np.ones(2), "min")
    with pytest.raises(ValueError, match="score of row 1 is nan"):
        pf_ppo_weights(np.array([0.0, np.nan]))
