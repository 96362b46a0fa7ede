"""Credit rules against numbers worked by hand, and how rules are found by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.credit import RULES, get_credit, identical, is_relative, last_turn, register_credit, relative
from agentlightning.types import ConfigError, Episode, TokenCall, Turn


def turn(reward: float | None = None, agent: str | None = None, model: str = "m") -> Turn:
    return Turn(TokenCall(model, np.array([1], np.int32), np.array([2], np.int32), None, "stop"), reward, agent)


def episode(*rewards: float | None, final: float | None = None, **dimensions: float) -> Episode:
    """Turns with these rewards; the final one is that of the last turn, unless given."""
    last = rewards[-1] if rewards else None
    return Episode("ro", [turn(reward) for reward in rewards], [], last if final is None else final, rewards=dimensions)


def spoken(*agents: str, final: float | None = None, **dimensions: float) -> Episode:
    """Turns of these agents."""
    return Episode("ro", [turn(None, agent) for agent in agents], [], final, rewards=dimensions)


def earned(rule: Any, *group: Episode) -> list[list[float | None]]:
    """What each episode of a group earns."""
    found = get_credit(rule)
    return [list(found(each, group)) for each in group]


@pytest.mark.parametrize(
    ("rule", "rewards", "expected"),
    [
        ("identical", (None, None, 0.75), [0.75, 0.75, 0.75]),
        ("identical", (1.0, 0.0), [0.0, 0.0]),
        ("identical", (None, None), [None, None]),
        ("identical", (), []),
        ("last_turn", (None, None, 0.75), [None, None, 0.75]),
        ("last_turn", (0.0,), [0.0]),
        ("last_turn", (None, None), [None, None]),
        ("last_turn", (), []),
        ({"name": "discounted", "gamma": 0.5}, (None, None, 8.0), [2.0, 4.0, 8.0]),
        ({"name": "discounted", "gamma": 1.0}, (5.0, 8.0), [8.0, 8.0]),
        ({"name": "discounted", "gamma": 0.0}, (5.0, 8.0), [0.0, 8.0]),
        ("discounted", (None, 1.0), [0.9, 1.0]),
        ("discounted", (None, None), [None, None]),
        ("discounted", (), []),
        ("per_turn", (0.25, None, 1.0), [0.25, None, 1.0]),
        ("per_turn", (0.0, None), [0.0, None]),
        ("per_turn", (), []),
        ({"name": "per_turn", "gamma": 0.5}, (4.0, None, 8.0, None), [6.0, 4.0, 8.0, None]),
        ({"name": "per_turn", "gamma": 1.0}, (-1.0, 0.0, 1.0), [0.0, 1.0, 1.0]),
    ],
)
def test_rules_that_look_at_one_episode(rule: Any, rewards: tuple[float | None, ...], expected: list[Any]) -> None:
    assert earned(rule, episode(*rewards)) == [expected]
    assert earned(rule, episode(*rewards), episode(9.0, 9.0))[0] == expected, "others of the group change nothing"


def test_none_is_not_zero() -> None:
    assert earned("per_turn", episode(None, 0.0, 1.0)) == [[None, 0.0, 1.0]]
    assert earned({"name": "per_turn", "gamma": 0.5}, episode(None, None)) == [[None, None]]


def test_turns_are_compared_with_the_same_turn_of_the_others() -> None:
    rule = {"name": "group_relative_per_turn", "gamma": 0.0, "norm_by_std": False}
    # first turns 1, 0, 2: mean 1; second turns 4, 8: mean 6; the third turn of the last has no other
    assert earned(rule, episode(1.0, 4.0), episode(0.0), episode(2.0, 8.0, 5.0)) == [[0, -2], [-1], [1, 2, None]]


def test_by_default_all_that_was_earned_from_the_turn_on_counts_in_units_of_the_spread() -> None:
    # sums from each turn on: (3, 2) and (1, 0): means 2 and 1, sample deviations sqrt(2) both
    unit = 1 / (2**0.5 + 1e-6)
    first, second = earned("group_relative_per_turn", episode(1.0, 2.0), episode(1.0, 0.0))
    assert first == pytest.approx([unit, unit])
    assert second == pytest.approx([-unit, -unit])


def test_a_turn_without_a_reward_is_neither_compared_nor_trained() -> None:
    rule = {"name": "group_relative_per_turn", "gamma": 0.0, "norm_by_std": False}
    assert earned(rule, episode(None, 1.0), episode(4.0, 3.0), episode(8.0, 2.0)) == [[None, -1], [-2, 1], [2, 0]]


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 0.0, -0.7])
def test_equal_turns_are_a_tie(reward: float) -> None:
    group = [episode(reward, reward, reward) for _ in range(3)]
    assert earned("group_relative_per_turn", *group) == [[0.0, 0.0, 0.0]] * 3


@given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=4), min_size=2, max_size=5))
def test_what_a_group_earns_at_a_turn_sums_to_nothing(rewards: list[list[float]]) -> None:
    group = [episode(*each) for each in rewards]
    found = earned("group_relative_per_turn", *group)
    for index in range(4):
        numbers = [each[index] for each in found if index < len(each)]
        known = [number for number in numbers if number is not None]
        assert len(known) in (0, len(numbers)), "nobody, or all who got there"
        assert sum(known) == pytest.approx(0, abs=1e-6)


def test_agents_earn_what_bears_their_name_and_are_compared_with_themselves() -> None:
    # the solver's rewards are 3 and 1, the critic's 0 and 0.5: means 2 and 0.25
    group = [spoken("solver", "critic", solver=3.0, critic=0.0), spoken("critic", "solver", solver=1.0, critic=0.5)]
    found = earned({"name": "by_agent", "norm_by_std": False}, *group)
    assert found == [[1.0, -0.25], [0.25, -1.0]]
    by_std = earned("by_agent", *group)
    assert by_std[0] == pytest.approx([1 / (2**0.5 + 1e-6), -0.25 / (0.125**0.5 + 1e-6)])


def test_the_levels_of_two_agents_do_not_mix() -> None:
    """A critic that always gets 0 is no worse than usual, whatever the solver gets."""
    group = [spoken("solver", "critic", solver=float(n % 2), critic=0.0) for n in range(4)]
    assert [numbers[1] for numbers in earned("by_agent", *group)] == [0.0] * 4


def test_agents_without_a_dimension_earn_the_final_reward_or_nothing() -> None:
    group = [spoken("a", "b", final=1.0, a=5.0), spoken("a", "b", final=0.0, a=5.0)]
    rule = {"name": "by_agent", "norm_by_std": False}
    assert earned(rule, *group) == [[0.0, 0.5], [0.0, -0.5]]
    assert earned({**rule, "others": "none"}, *group) == [[0.0, None], [0.0, None]]


def test_dimensions_may_have_other_names_and_models_stand_for_agents() -> None:
    group = [
        Episode("ro", [turn(model="big"), turn(model="small")], [], None, rewards={"quality": value, "small": -value})
        for value in (1.0, 3.0)
    ]
    rule = {"name": "by_agent", "norm_by_std": False, "rewards": {"big": "quality"}}
    assert earned(rule, *group) == [[-1.0, 1.0], [1.0, -1.0]]


def test_an_agent_that_spoke_once_has_nobody_to_be_compared_with() -> None:
    group = [spoken("a", "b", final=1.0), spoken("a", final=0.0)]
    assert earned({"name": "by_agent", "norm_by_std": False}, *group) == [[0.5, None], [-0.5]]


# -- names and functions -------------------------------------------------------------------------------------------


def test_a_function_is_a_rule_of_its_own() -> None:
    def best_of_group(episode: Episode, group: Sequence[Episode]) -> list[float | None]:
        best = max(each.reward or 0.0 for each in group)
        return [1.0 if episode.reward == best else 0.0] * len(episode.turns)

    assert earned(best_of_group, episode(None, 1.0), episode(0.5)) == [[1.0, 1.0], [0.0]]
    assert not is_relative(best_of_group)


def test_names_find_the_functions() -> None:
    assert get_credit("identical") is identical
    assert get_credit({"name": "last_turn"}) is last_turn
    assert [name for name, rule in RULES.items() if is_relative(rule)] == ["by_agent", "group_relative_per_turn"]
    assert is_relative(get_credit({"name": "group_relative_per_turn", "gamma": 0.5}))


def test_a_registered_rule_has_a_name_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.credit.registry.RULES", dict(RULES))

    @register_credit("bonus")
    @relative
    def bonus(episode: Episode, group: Sequence[Episode], *, extra: float = 1.0) -> list[float | None]:
        return [extra for _ in episode.turns]

    assert earned({"name": "bonus", "extra": 2.0}, episode(0.0, 0.0)) == [[2.0, 2.0]]
    assert is_relative(get_credit({"name": "bonus", "extra": 2.0}))
    with pytest.raises(ValueError, match="'bonus' exists already"):
        register_credit("bonus")(lambda episode, group: [])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("identcal", r"'identcal'.*identical, last_turn, discounted, per_turn, by_agent, group_relative_per_turn"),
        ({"gamma": 0.9}, "None is no credit rule"),
        ({"name": "discounted", "gama": 0.9}, r"`credit\.gama`.*`discounted` has no such parameter; it has `gamma`"),
        ({"name": "identical", "gamma": 0.9}, "it has none"),
        ({"name": "discounted", "gamma": 1.5}, r"'discounted': `gamma` must be a number from 0 to 1, not 1\.5"),
        ({"name": "per_turn", "gamma": "high"}, "`gamma` must be a number"),
        ({"name": "by_agent", "others": "some"}, "`others` must be one of final, none, not 'some'"),
        ({"name": "by_agent", "rewards": ["a"]}, "`rewards` must map agents"),
        (7, "`credit` is a int"),
        (lambda episode: [], r"takes \(episode, group\)"),
        (partial(identical, group=[]), r"takes \(episode, group\)"),
    ],
)
def test_what_can_be_no_rule_is_refused_with_the_mend(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_credit(spec)
