"""Credit rules against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from agentlightning.credit import get_credit, identical, last_turn
from agentlightning.types import ConfigError, Episode, TokenCall, Turn


def episode(reward: float | None, turns: int) -> Episode:
    call = TokenCall("m", np.array([1], np.int32), np.array([2], np.int32), None, "stop")
    return Episode("ro-1", [Turn(call, 0.5)] * turns, [], reward)


@pytest.mark.parametrize(
    ("rule", "reward", "turns", "expected"),
    [
        ("identical", 0.75, 3, [0.75, 0.75, 0.75]),
        ("identical", 0.0, 2, [0.0, 0.0]),
        ("identical", None, 2, [None, None]),
        ("identical", 1.0, 0, []),
        ("last_turn", 0.75, 3, [None, None, 0.75]),
        ("last_turn", 0.0, 1, [0.0]),
        ("last_turn", None, 2, [None, None]),
        ("last_turn", 1.0, 0, []),
    ],
)
def test_rules(rule: str, reward: float | None, turns: int, expected: list[float | None]) -> None:
    assert get_credit(rule)(episode(reward, turns)) == expected


def test_a_function_is_a_rule_of_its_own() -> None:
    def own_rewards(episode: Episode) -> list[float | None]:
        return [turn.reward for turn in episode.turns]

    assert get_credit(own_rewards)(episode(1.0, 2)) == [0.5, 0.5]


def test_names_find_the_functions() -> None:
    assert get_credit("identical") is identical
    assert get_credit("last_turn") is last_turn


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'identcal'.*identical, last_turn"):
        get_credit("identcal")
