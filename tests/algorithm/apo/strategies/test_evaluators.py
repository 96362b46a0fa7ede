"""How validation rollouts are spent, and who wins."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from agentlightning.algorithm.apo.batches import Batches
from agentlightning.algorithm.apo.candidate import Candidate, Proposal
from agentlightning.algorithm.apo.state import State
from agentlightning.algorithm.apo.strategies import UCB, Full, Halving, Posterior, Racing, SharedBatch
from agentlightning.algorithm.apo.strategies.choice import best_of, fitting, rank, takes_over
from agentlightning.algorithm.apo.strategies.evaluators.posterior import effects

from ..table import add, make_state, noisy, on_val, rows, table_of

ALL = [
    Full(),
    SharedBatch(3),
    UCB(sample=2),
    Halving(first=2),
    Racing(first=2, step=2),
    Racing(test="permutation"),
    Posterior(first=3),
]


def tried(state: State) -> Counter[str]:
    """Validation rollouts by text."""
    return Counter(text for text, place in table_of(state).paid if place.split == "val")


def levels(**means: float) -> Any:
    """Rewards of 0 and 1 with these means over 100 tasks, in the same order of difficulty for all."""
    return lambda text, place: float((place.task * 37) % 100 < 100 * means[text if text != "0" else "start"])


# -- the rules of choice ----------------------------------------------------------------------------------------------


async def pair(ours: list[float], theirs: list[float], ours_tried: int, theirs_tried: int) -> tuple[State, Candidate]:
    state = make_state(rows({"0": ours, "rival": theirs}), val=len(ours))
    (rival,) = add(state, "rival")
    await on_val(state, state.candidates[0], range(ours_tried))
    await on_val(state, rival, range(theirs_tried))
    return state, rival


@pytest.mark.parametrize(
    ("theirs", "ours_tried", "theirs_tried", "wins"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 0], 8, 8, True),
        ([0, 0, 0, 0, 0, 0, 0, 0], 8, 8, False),  # equal
        ([1, 0, 0, 0, 0, 0, 0, 0], 4, 8, True),  # on more tasks than the best
        ([0, 0, 0, 0, 1, 1, 1, 1], 4, 8, False),  # ahead only where the best was not tried
        ([1, 1, 1, 1, 0, 0, 0, 0], 8, 4, False),  # p = 1/16
        ([1, 1, 1, 1, 1, 0, 0, 0], 8, 5, True),  # p = 1/32
        ([1, 0, 0, 0, 0, 0, 0, 0], 0, 1, True),  # nothing is known of the best
        ([1, 1, 1, 1, 1, 1, 1, 1], 0, 0, False),
    ],
)
async def test_a_rival_with_fewer_tasks_needs_a_test(
    theirs: list[float], ours_tried: int, theirs_tried: int, wins: bool
) -> None:
    state, rival = await pair([0.0] * 8, theirs, ours_tried, theirs_tried)
    best = state.candidates[0]
    assert takes_over(state, rival, best) == wins
    assert best_of(state, [best, rival], best) == (rival if wins else best)


async def test_few_tasks_count_for_less_in_the_ranking() -> None:
    table = {"0": [0.5] * 8, "lucky": [1.0] * 8, "solid": [0.9] * 8, "poor": [0.0] * 8, "unknown": [1.0] * 8}
    state = make_state(rows(table), val=8)
    lucky, solid, poor, unknown = add(state, "lucky", "solid", "poor", "unknown")
    for candidate, tasks in ((state.candidates[0], 8), (lucky, 2), (solid, 8), (poor, 2)):
        await on_val(state, candidate, range(tasks))
    # Ahead by 0.5 on 2 tasks: 1 / (2 + 4). Ahead by 0.4 on 8: 3.2 / (8 + 4).
    assert rank(state, [unknown, poor, lucky, state.candidates[0], solid]) == [
        solid, lucky, state.candidates[0], poor, unknown
    ]  # fmt: skip


async def test_what_fits_is_a_prefix_that_all_contenders_can_be_tried_on() -> None:
    state = make_state(lambda text, place: 0.0, val=6, rollouts=8)
    a, b = add(state, "a", "b")
    await on_val(state, a, [3, 1])
    assert fitting(state, [a, b], [3, 1, 0, 2, 4, 5]) == [3, 1, 0, 2]
    assert fitting(state, [a, b], [3, 1, 0, 2, 4, 5], room=3) == [3, 1]
    assert fitting(state, [a], [3, 1, 0]) == [3, 1, 0]


# -- all evaluators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluator", ALL, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("rollouts", [1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_no_budget_is_too_small_to_be_kept(evaluator: Any, rollouts: int) -> None:
    for seed in range(3):
        state = make_state(noisy(), val=8, rollouts=rollouts, seed=seed)
        children = add(state, *"abcd")
        best = await evaluator.evaluate(state, children)
        state.best, state.archive = best, [state.candidates[0], *children]
        best = await evaluator.finish(state)
        assert len(table_of(state).paid) <= rollouts
        if not isinstance(evaluator, Posterior):
            assert best.id == "v0" or takes_over(state, best, state.candidates[0])


@pytest.mark.parametrize("evaluator", ALL, ids=lambda each: type(each).__name__)
async def test_a_clear_winner_is_found_and_nothing_is_run_twice(evaluator: Any) -> None:
    state = make_state(levels(start=0.3, a=0.2, b=0.9, c=0.4), val=100)
    children = add(state, *"abc")
    best = await evaluator.evaluate(state, children)
    assert best.texts["prompt"] == "b"
    assert evaluator.rank(state, [state.candidates[0], *children])[0] == best
    assert len(set(table_of(state).paid)) == len(table_of(state).paid)


@pytest.mark.parametrize("evaluator", ALL, ids=lambda each: type(each).__name__)
async def test_without_children_the_best_stays(evaluator: Any) -> None:
    state = make_state(noisy(), val=8)
    assert await evaluator.evaluate(state, []) == state.candidates[0]


# -- one by one -------------------------------------------------------------------------------------------------------


async def test_full_tries_everyone_on_everything_at_once() -> None:
    state = make_state(noisy(), val=8)
    await Full().evaluate(state, add(state, *"ab"))
    assert tried(state) == {"0": 8, "a": 8, "b": 8}
    assert table_of(state).calls == [24]


async def test_full_with_little_room_tries_all_on_the_same_tasks() -> None:
    state = make_state(noisy(), val=8, rollouts=17)
    await Full().evaluate(state, add(state, *"ab"))
    places = {text: {place for each, place in table_of(state).paid if each == text} for text in "0ab"}
    assert places["0"] == places["a"] == places["b"]
    assert tried(state) == {"0": 5, "a": 5, "b": 5}


async def test_the_shared_batch_is_cut_before_the_leaders_validation_is() -> None:
    # 3 contenders on a batch of 4 and the leader on 8: 12 + 4; on a batch of 3: 9 + 5; of 2: 6 + 6.
    for rollouts, batch in ((16, 4), (15, 3), (14, 3), (12, 2)):
        state = make_state(levels(start=0.0, a=0.1, b=1.0), val=8, rollouts=rollouts)
        best = await SharedBatch(4).evaluate(state, add(state, *"ab"))
        assert tried(state) == {"0": batch, "a": batch, "b": 8}
        assert best.texts["prompt"] == "b"


async def test_the_shared_batch_is_the_rounds_own() -> None:
    state = make_state(noisy(), val=8)
    await SharedBatch(3).evaluate(state, add(state, "a"))
    expected = Batches(8, 3, lambda epoch: state.rng("val", epoch)).at(0)
    assert {place.task for text, place in table_of(state).paid[:6]} == set(expected)


async def test_halving_tries_few_on_many() -> None:
    state = make_state(levels(start=0.5, a=0.6, b=0.7, c=0.8, d=0.95), val=100)
    await on_val(state, state.candidates[0], range(100))
    table_of(state).paid.clear()
    await Halving(first=10, drop_level=0.0).evaluate(state, add(state, *"abcd"))
    # 4 on 10, 2 on 20, 1 on 40, 80 and 100: nothing twice.
    assert sorted(tried(state).values()) == [10, 10, 20, 100]
    assert table_of(state).calls[1:] == [40, 20, 20, 40, 20]


async def test_halving_drops_who_is_behind_the_best() -> None:
    state = make_state(levels(start=0.9, a=0.1, b=0.2), val=100)
    await on_val(state, state.candidates[0], range(100))
    table_of(state).paid.clear()
    assert (await Halving(first=10).evaluate(state, add(state, *"ab"))).id == "v0"
    assert tried(state) == {"a": 10, "b": 10}


async def test_the_posterior_mean_is_the_closed_form_for_a_child_on_some_tasks() -> None:
    # One child that is ahead by 0.5 on 3 tasks of the start's 8, prior 6. With both tried on a task its two rewards
    # inform on the difference d with a weight of 1/2: (0.5 * 3) * d = (0.5 * 3) * 0.5 - 6 * d.
    table = {"0": [0.5] * 8, "child": [1.0] * 8}
    state = make_state(rows(table), val=8)
    (child,) = add(state, "child")
    await on_val(state, state.candidates[0], range(8))
    await on_val(state, child, range(3))
    found = effects(state, 6.0)
    assert found["v1"] - found["v0"] == pytest.approx(1.5 * 0.5 / (1.5 + 6))


async def test_effects_compare_those_that_met_on_no_task() -> None:
    # `b` is on hard tasks, `c` on easy ones; the start tells which is which, and that `b` is better.
    table = {"0": [0.0, 0.0, 0.9, 0.9], "b": [0.5, 0.5, 1, 1], "c": [0, 0, 0.9, 0.9]}
    state = make_state(rows(table), val=4)
    b, c = add(state, "b", "c")
    await on_val(state, state.candidates[0], range(4))
    await on_val(state, b, [0, 1])
    await on_val(state, c, [2, 3])
    assert state.mean(b) < state.mean(c)  # type: ignore[operator]
    assert Posterior().rank(state, [c, b, state.candidates[0]])[0] == b


async def test_luck_on_few_tasks_does_not_lead() -> None:
    state = make_state(rows({"0": [0.5] * 20, "solid": [0.8] * 20, "lucky": [1.0] * 20}), val=20)
    solid, lucky = add(state, "solid", "lucky")
    for candidate, tasks in ((state.candidates[0], 20), (solid, 20), (lucky, 1)):
        await on_val(state, candidate, range(tasks))
    assert Posterior().rank(state, [lucky, solid, state.candidates[0]]) == [solid, lucky, state.candidates[0]]


async def test_an_untried_child_is_as_good_as_its_parent() -> None:
    state = make_state(rows({"0": [0.2] * 4, "good": [1.0] * 4}), val=4)
    (good,) = add(state, "good")
    for candidate in (state.candidates[0], good):
        await on_val(state, candidate, range(4))
    child = state.admit(Proposal({"prompt": "untried"}, (good,), "reflect"))
    assert child is not None
    found = effects(state, 12.0)
    assert found[child.id] == pytest.approx(found[good.id])
    assert Posterior().rank(state, [good, child])[0] == good


async def test_a_round_costs_its_tasks_for_leader_and_children() -> None:
    state = make_state(levels(start=0.2, a=0.1, b=0.9), val=40)
    best = await Posterior(first=6, top=2, more=4).evaluate(state, add(state, *"ab"))
    assert best.texts["prompt"] == "b"
    assert sorted(tried(state).values()) == [6, 10, 10]
    assert table_of(state).calls == [18, 8]


async def test_the_reserve_is_left_for_the_finalists() -> None:
    state = make_state(levels(start=0.3, a=0.6, b=0.9), val=20, rollouts=60)
    evaluator = Posterior(first=20, finalists=2, reserve=0.7)
    children = add(state, *"ab")
    state.best = await evaluator.evaluate(state, children)
    assert state.trials.room() == 42
    state.archive = [*state.archive, *children]
    assert (await evaluator.finish(state)).texts["prompt"] == "b"
    assert sorted(tried(state).values()) == [6, 20, 20]


async def test_of_two_that_did_the_same_on_all_tasks_the_earlier_is_best() -> None:
    state = make_state(levels(start=0.2, a=0.9, b=0.9), val=20)
    (first,) = add(state, "a")
    second = state.admit(Proposal({"prompt": "b"}, (first,), "reflect"))
    assert second is not None
    state.archive = [*state.archive, first, second]
    evaluator = Posterior()
    assert await evaluator.finish(state) == first
    assert state.scores(first) == state.scores(second)
    assert evaluator.rank(state, [first, second])[0] == second


async def test_a_race_ends_when_one_is_left() -> None:
    state = make_state(levels(start=0.05, a=0.1, b=0.95), val=100)
    # Two rivals at 0.1: each must be out at 0.05, and 4 tasks can't say so (1/16).
    await Racing(first=4, step=4, test="permutation").evaluate(state, add(state, *"ab"))
    assert set(tried(state).values()) == {8}


async def test_the_bernstein_race_asks_for_more_evidence() -> None:
    state = make_state(levels(start=0.05, a=0.1, b=0.95), val=100)
    await Racing(first=8, step=8).evaluate(state, add(state, *"ab"))
    assert 16 < max(tried(state).values()) < 100


async def test_equals_race_to_the_last_task_and_the_best_stays() -> None:
    state = make_state(lambda text, place: float(place.task % 2), val=32)
    assert (await Racing(test="permutation").evaluate(state, add(state, *"ab"))).id == "v0"
    assert set(tried(state).values()) == {32}


async def test_ucb_spends_on_those_that_may_be_the_best() -> None:
    state = make_state(levels(start=0.5, a=0.05, b=0.1, c=0.95), val=100)
    await UCB(c=0.5, pulls=10, arms=1, sample=5).evaluate(state, add(state, *"abc"))
    # One pull for each, the others mostly for `c`; then its validation is completed.
    counts = tried(state)
    assert counts["c"] == 100
    assert counts["a"] == 5
    assert sum(counts[text] for text in ("0", "a", "b")) <= 30
