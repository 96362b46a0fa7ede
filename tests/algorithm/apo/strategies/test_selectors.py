"""Who gets children, and who stays."""

from __future__ import annotations

from collections import Counter

from agentlightning.algorithm.apo.state import Round, State
from agentlightning.algorithm.apo.strategies import Beam, Best, EpsilonGreedy, Full, Pareto
from agentlightning.algorithm.apo.strategies.selectors.pareto import front

from ..table import add, make_state, on_val, rows

RANK = Full().rank


async def state_with(table: dict[str, list[float]]) -> State:
    """All rows of the table tried on all of validation, and in the archive; the first is the start."""
    state = make_state(rows(table), val=len(table["0"]))
    state.archive = [state.candidates[0], *add(state, *list(table)[1:])]
    for candidate in state.archive:
        await on_val(state, candidate, range(len(table["0"])))
    return state


def ids(candidates: list) -> list[str]:
    return [candidate.id for candidate in candidates]


def test_the_first_beam_is_copies_of_the_start() -> None:
    state = make_state(rows({}))
    assert ids(Beam(RANK, width=3, branch_factor=2).parents(state)) == ["v0"] * 6


async def test_a_beam_that_is_not_full_is_gone_through_again() -> None:
    state = await state_with({"0": [0.0], "1": [1.0]})
    assert ids(Beam(RANK, width=3, branch_factor=1).parents(state)) == ["v0", "v1", "v0"]


async def test_a_full_beam_is_permuted_anew_each_round() -> None:
    state = await state_with({"0": [0.0], "1": [1.0], "2": [0.5]})
    beam = Beam(RANK, width=3, branch_factor=2)
    orders = set()
    for number in range(2, 12):
        state.rounds.append(Round(number))
        parents = ids(beam.parents(state))
        assert parents[0::2] == parents[1::2]
        assert sorted(parents[0::2]) == ["v0", "v1", "v2"]
        assert parents == ids(beam.parents(state))
        orders.add(tuple(parents))
    assert len(orders) > 1


async def test_the_best_stay_in_the_beam_and_of_equals_the_older() -> None:
    state = await state_with({"0": [0.5], "1": [0.5], "2": [0.9], "3": [0.5]})
    old, children = state.archive[:2], state.archive[2:]
    state.archive = old
    assert ids(Beam(RANK, width=3, branch_factor=1).keep(state, children)) == ["v2", "v0", "v1"]


async def test_hill_climbing_has_one_parent() -> None:
    state = await state_with({"0": [0.5], "1": [0.9]})
    state.best = state.archive[1]
    assert ids(Best(RANK, children=3).parents(state)) == ["v1"] * 3


async def test_epsilon_is_the_share_of_other_parents() -> None:
    state = await state_with({"0": [0.5], "1": [0.9]})
    state.best = state.archive[1]
    drawn = Counter(ids(EpsilonGreedy(RANK, children=4000, epsilon=0.4).parents(state)))
    # Half of the random draws hit the best, too.
    assert abs(drawn["v0"] / 4000 - 0.2) < 0.03
    assert ids(EpsilonGreedy(RANK, children=5, epsilon=0.0).parents(state)) == ["v1"] * 5


async def test_epsilon_greedy_keeps_the_best_few() -> None:
    state = await state_with({"0": [0.5], "1": [0.1], "2": [0.9]})
    children, state.archive = state.archive[1:], state.archive[:1]
    assert ids(EpsilonGreedy(RANK, size=2).keep(state, children)) == ["v2", "v0"]


def test_the_front_counts_tasks_on_which_nobody_is_better() -> None:
    scores = {"a": {0: 1.0, 1: 0.0, 2: 0.0}, "b": {0: 0.0, 1: 1.0, 2: 0.5}, "c": {0: 1.0, 1: 1.0, 2: 0.0}}
    # `a` is best on task 0 only, where `c` is as good. `b` alone is best on task 2; then `c` is needed for task 0.
    assert front(scores) == {"b": 2, "c": 2}


def test_the_weakest_is_left_out_first() -> None:
    # Each is covered by the other; the order given is from the weakest.
    assert front({"weak": {0: 1.0, 1: 0.0}, "strong": {0: 1.0, 1: 1.0}}) == {"strong": 2}
    assert front({"a": {0: 1.0}, "b": {0: 1.0}, "c": {0: 1.0}}) == {"c": 1}


def test_tasks_that_nobody_solved_may_be_left_out() -> None:
    scores = {"a": {0: 0.0, 1: 1.0, 2: 0.0}, "b": {0: 0.0, 1: 0.0, 2: 1.0}}
    assert front(scores) == {"a": 2, "b": 2}
    assert front(scores, skip_zero=True) == {"a": 1, "b": 1}


def test_tasks_that_one_alone_was_tried_on_do_not_count() -> None:
    assert front({"a": {0: 1.0}, "b": {0: 0.5, 1: 1.0, 2: 1.0}}) == {"a": 1}


async def test_parents_are_drawn_by_their_share_of_the_front() -> None:
    state = await state_with({"0": [1.0, 0, 0, 0], "1": [0, 1.0, 1.0, 1.0], "2": [0.5, 0.5, 0.5, 0.5]})
    drawn = Counter(ids(Pareto(RANK, children=4000).parents(state)))
    assert drawn.keys() == {"v0", "v1"}
    assert abs(drawn["v0"] / 4000 - 0.25) < 0.03


async def test_only_the_best_of_the_front_may_take_part() -> None:
    state = await state_with({"0": [1.0, 0, 0, 0], "1": [0, 1.0, 1.0, 1.0], "2": [0.5, 0.5, 0.5, 0.5]})
    assert set(ids(Pareto(RANK, children=200, top=2).parents(state))) == {"v1", "v2"}


async def test_a_start_that_was_tried_alone_is_the_parent() -> None:
    state = await state_with({"0": [0.0, 1.0]})
    assert ids(Pareto(RANK, children=2).parents(state)) == ["v0", "v0"]
    untried = make_state(lambda text, place: 0.0)
    assert ids(Pareto(RANK, children=2).parents(untried)) == ["v0", "v0"]


async def test_the_pareto_archive_keeps_all_children() -> None:
    state = await state_with({"0": [0.5], "1": [0.1], "2": [0.0]})
    children, state.archive = state.archive[1:], state.archive[:1]
    assert ids(Pareto(RANK).keep(state, children)) == ["v0", "v1", "v2"]
