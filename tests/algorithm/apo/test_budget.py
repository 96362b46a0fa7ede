"""A budget is never exceeded, and says what is wrong with it before anything is spent."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.algorithm.apo.budget import Budget, BudgetSpent, Call, Ledger, Usage
from agentlightning.algorithm.apo.outcome import Outcome, Place
from agentlightning.types import ConfigError


def outcome(name: str = "r", calls: int = 1, tokens: int = 100, status: str = "succeeded", model: str = "m") -> Outcome:
    return Outcome(Place("train", 0), name, status, 1.0, True, calls=calls, usage={model: (tokens, 0)})


def ran(ledger: Ledger, *outcomes: Outcome) -> None:
    for each in outcomes:
        ledger.rollouts(1)
        ledger.rollout_done(each)


@pytest.mark.parametrize(
    "field", ["rollouts", "llm_calls", "tokens", "cost", "seconds", "rollout_calls", "rollout_cost"]
)
@pytest.mark.parametrize("value", [0, -1, True, "9", float("nan"), float("inf")])
def test_a_limit_that_is_no_positive_number_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{field}` must be a"):
        Budget(**{field: value}, prices={"m": (1, 1)})


def test_a_limit_of_whole_things_is_whole() -> None:
    with pytest.raises(ConfigError, match="`rollouts` must be a whole number"):
        Budget(rollouts=1.5)  # type: ignore[arg-type]


def test_a_limit_in_dollars_needs_prices() -> None:
    with pytest.raises(ConfigError, match="`prices` is empty"):
        Budget(cost=1.0)


@pytest.mark.parametrize("price", [1.0, (1,), (1, -1), ("1", 2), (float("nan"), 1)])
def test_a_price_is_two_numbers(price: Any) -> None:
    with pytest.raises(ConfigError, match=r"`prices\['m'\]` must be two numbers"):
        Budget(prices={"m": price})


def test_the_longest_name_that_a_model_begins_with_has_its_price() -> None:
    budget = Budget(prices={"gpt-5": (1.0, 10.0), "gpt-5-mini": (0.5, 2.0)})
    assert budget.cost_of("gpt-5-mini-2026", 1_000_000, 1_000_000) == 2.5
    assert budget.cost_of("gpt-5", 2_000_000, 0) == 2.0
    assert budget.cost_of("other", 1_000_000, 0) == 0.0


def test_a_model_without_a_price_ends_a_run_that_is_limited_in_dollars() -> None:
    ledger = Ledger(Budget(cost=1.0, prices={"gpt": (1, 1)}))
    with pytest.raises(ConfigError, match="none for model 'm'"):
        ledger.calls([Call("m", 10, 10)])


def test_without_limits_there_is_room_for_all() -> None:
    ledger = Ledger()
    ledger.rollouts(10**6)
    assert ledger.room() == sys.maxsize


def test_rollouts_are_reserved_all_or_none() -> None:
    ledger = Ledger(Budget(rollouts=5))
    ledger.rollouts(3)
    assert ledger.room() == 2
    with pytest.raises(BudgetSpent, match="`rollouts` do not pay for 3 more") as refused:
        ledger.rollouts(3)
    assert refused.value.field == "rollouts"
    assert ledger.room() == 2
    ledger.rollouts(2)
    assert ledger.room() == 0


def test_what_is_held_back_is_there_when_it_is_released() -> None:
    ledger = Ledger(Budget(rollouts=5))
    ledger.hold(4)
    ledger.rollouts(1)
    with pytest.raises(BudgetSpent, match="4 rollouts held back"):
        ledger.rollouts(1)
    ledger.release()
    ledger.rollouts(4)


def test_a_report_that_the_budget_does_not_reach_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="`rollouts` leaves 5 but the final report takes 6"):
        Ledger(Budget(rollouts=5)).hold(6)


def test_what_a_kill_cut_off_is_paid_and_counts_as_no_rollout() -> None:
    ledger = Ledger(Budget(rollouts=5, tokens=1000, rollout_tokens=100))
    ledger.rollouts(2)
    ledger.rollout_cut(outcome(tokens=300))
    assert (ledger.spent.rollouts, ledger.spent.tokens, ledger.spent.llm_calls) == (0, 300, 1)
    assert ledger.room() == 3


def test_where_tokens_are_limited_one_rollout_goes_first() -> None:
    ledger = Ledger(Budget(tokens=1000))
    assert not ledger.knows_a_rollout
    with pytest.raises(ValueError, match="before one was run"):
        ledger.rollouts(2)
    ran(ledger, outcome(tokens=100))
    assert ledger.knows_a_rollout
    assert ledger.room() == 6  # 900 left, 150 for each


def test_a_declared_size_is_taken_instead_of_a_guess() -> None:
    ledger = Ledger(Budget(tokens=1000, rollout_tokens=250))
    assert ledger.knows_a_rollout
    assert ledger.room() == 4
    ran(ledger, outcome(tokens=100))
    assert ledger.room() == 3


def test_the_largest_rollout_so_far_says_what_the_next_may_take() -> None:
    ledger = Ledger(Budget(llm_calls=100))
    ran(ledger, outcome("a", calls=1), outcome("b", calls=7))
    assert ledger.room() == 8  # 92 left, 11 for each
    ledger.rollouts(8)
    with pytest.raises(BudgetSpent, match="`llm_calls`"):
        ledger.calls([Call("m", 1, 1)] * 5)


def test_held_rollouts_keep_their_tokens() -> None:
    ledger = Ledger(Budget(tokens=1000))
    ledger.hold(4)
    ran(ledger, outcome(tokens=100))
    assert ledger.room() == 2
    with pytest.raises(BudgetSpent, match="`tokens`"):
        ledger.calls([Call("m", 200, 101)])
    ledger.calls([Call("m", 200, 100)])


def test_calls_are_reserved_with_the_most_and_settled_with_what_they_took() -> None:
    ledger = Ledger(Budget(tokens=100, llm_calls=3))
    call = Call("m", 40, 10)
    ledger.calls([call, call])
    assert ledger.payable([call]) == 0
    ledger.call_done(call, Usage(5, 5))
    assert ledger.payable([Call("m", 20, 10), Call("m", 10, 10)]) == 1
    assert (ledger.spent.tokens, ledger.spent.llm_calls, ledger.spent.writer_calls) == (10, 1, 1)


def test_a_call_that_was_not_sent_costs_nothing() -> None:
    ledger = Ledger(Budget(tokens=100))
    ledger.calls([Call("m", 40, 60)])
    ledger.call_done(Call("m", 40, 60), Usage(tries=0))
    assert ledger.spent.llm_calls == 0
    ledger.calls([Call("m", 40, 60)])


def test_cost_counts_agents_and_critics_by_their_own_prices() -> None:
    ledger = Ledger(Budget(cost=1.0, prices={"agent": (1.0, 0.0), "critic": (0.0, 100.0)}))
    ran(ledger, outcome(tokens=100_000, model="agent-x"))
    ledger.calls([Call("critic", 0, 5000)])
    ledger.call_done(Call("critic", 0, 5000), Usage(10, 4000))
    assert ledger.spent.cost == pytest.approx(0.5)
    assert ledger.room() == 3  # half a dollar, 0.15 for each


def test_when_time_is_up_nothing_begins_but_what_was_held() -> None:
    now = [0.0]
    ledger = Ledger(Budget(seconds=10), clock=lambda: now[0])
    ledger.hold(2)
    ledger.rollouts(3)
    now[0] = 10.0
    assert ledger.room() == 0
    for refused in (lambda: ledger.rollouts(1), lambda: ledger.calls([Call("m", 1, 1)])):
        with pytest.raises(BudgetSpent, match="`seconds` of the budget, 10, are over"):
            refused()
    ledger.release()
    assert ledger.room() == 2
    ledger.rollouts(2)
    with pytest.raises(BudgetSpent):
        ledger.rollouts(1)


def test_the_line_says_what_was_spent_of_what() -> None:
    ledger = Ledger(Budget(rollouts=10, tokens=12_345, cost=2.0, prices={"m": (10.0, 0.0)}))
    ran(ledger, outcome("a", calls=2, tokens=1500), outcome("b", status="failed", tokens=0))
    ledger.retried()
    assert ledger.line() == "2 of 10 rollouts (1 failed), 3 LLM calls, 1.5k of 12.3k tokens, $0.015 of $2, 1 retries"


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(50, 4000), st.integers(1, 80))
def test_no_order_of_events_exceeds_a_limit(seed: int, rollouts: int, tokens: int, calls: int) -> None:
    """Rollouts and calls that keep to what they declared never take more than the budget."""
    rng = random.Random(seed)
    ledger = Ledger(Budget(rollouts=rollouts, tokens=tokens, llm_calls=calls, rollout_tokens=40, rollout_calls=3))
    running, under_way = 0, list[Call]()
    for step in range(120):
        match rng.randrange(4):
            case 0:
                n = rng.randint(1, 4)
                fits = n <= ledger.room()
                try:
                    ledger.rollouts(n)
                    running += n
                    assert fits
                except BudgetSpent:
                    assert not fits
            case 1 if running:
                running -= 1
                ledger.rollout_done(outcome(str(step), rng.randint(0, 3), rng.randint(0, 40)))
            case 2:
                wanted = [Call("m", rng.randint(1, 30), rng.randint(1, 30)) for _ in range(rng.randint(1, 3))]
                fits = ledger.payable(wanted) == len(wanted)
                try:
                    ledger.calls(wanted)
                    under_way += wanted
                    assert fits
                except BudgetSpent:
                    assert not fits
            case 3 if under_way:
                call = under_way.pop(rng.randrange(len(under_way)))
                ledger.call_done(call, Usage(rng.randint(0, call.input_tokens), rng.randint(0, call.output_tokens)))
            case _:
                pass
        spent = ledger.spent
        assert spent.rollouts <= rollouts
        assert spent.tokens <= tokens
        assert spent.llm_calls <= calls
