"""Rollouts are paid once and counted whole: what a runner that died had asked for, what every model took."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentlightning.algorithm.apo.budget import Budget, Ledger
from agentlightning.algorithm.apo.candidate import Candidate
from agentlightning.algorithm.apo.outcome import Place
from agentlightning.algorithm.apo.trials import Trials
from agentlightning.semconv import (
    EMBEDDING_SPAN,
    GEN_AI_OUTPUT_MESSAGES,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_RESPONSE_ID,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    LLM_CALL_CHOICE,
    LLM_CALL_NUMBER,
    LLM_CALL_SPAN,
)
from agentlightning.store import LightningStore, SqlLightningStore
from agentlightning.types import AttemptedRollout, PromptTemplate, Span

TASKS = [{"number": n} for n in range(6)]
START = Candidate("v0", {"prompt": "Be nice."})
Agent = Callable[[AttemptedRollout], list[Span]]
PRICES = {"agent": (1.0, 1.0), "judge": (100.0, 100.0)}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LightningStore]:
    home = SqlLightningStore(tmp_path / "store.sqlite")
    yield home
    await home.close()


def call(rollout: AttemptedRollout, number: int, model: str = "agent", tokens: int = 10, more: Any = None) -> Span:
    """As the gateway writes it: half of the tokens are input."""
    attributes = {
        LLM_CALL_NUMBER: number,
        GEN_AI_REQUEST_MODEL: model,
        GEN_AI_RESPONSE_ID: f"{rollout.rollout_id}-{number}",
        GEN_AI_OUTPUT_MESSAGES: '[{"role": "assistant", "content": "yes"}]',
        GEN_AI_USAGE_INPUT_TOKENS: tokens // 2,
        GEN_AI_USAGE_OUTPUT_TOKENS: tokens - tokens // 2,
    }
    return span(rollout, LLM_CALL_SPAN, attributes | (more or {}))


def span(rollout: AttemptedRollout, name: str, attributes: dict[str, Any]) -> Span:
    return Span.create(
        name, rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id, attributes=attributes
    )


@asynccontextmanager
async def running(store: LightningStore, agent: Agent) -> AsyncGenerator[None]:
    """A runner: each rollout is one call of `agent`."""

    async def run() -> None:
        while True:
            if (rollout := await store.dequeue_rollout("w", timeout=1.0)) is not None:
                spans = agent(rollout)
                await store.end_attempt(rollout.rollout_id, rollout.attempt.attempt_id, "succeeded", spans)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def make(store: LightningStore, budget: Budget | None = None) -> tuple[Trials, Ledger]:
    ledger = Ledger(budget)
    return Trials(store, {"prompt": PromptTemplate(template="Be nice.")}, {"val": TASKS}, ledger), ledger


def places(*tasks: int) -> list[tuple[Candidate, Place]]:
    return [(START, Place("val", task)) for task in tasks]


async def dies(store: LightningStore) -> AttemptedRollout:
    """A runner that takes a rollout, asks an LLM, and is never heard of again."""
    rollout = await store.dequeue_rollout("w", timeout=10.0)
    assert rollout is not None
    await store.add_many_spans([call(rollout, 1, tokens=1000)])
    return rollout


async def test_every_model_that_an_agent_asks_has_its_own_price(store: LightningStore) -> None:
    trials, ledger = make(store, Budget(cost=1.0, prices=PRICES))
    async with running(store, lambda rollout: [call(rollout, 1, "judge", 1000), call(rollout, 2, "agent", 100)]):
        (outcome,) = await trials.run(places(0))
    assert ledger.spent.cost == pytest.approx((100 * 1000 + 1 * 100) / 1e6)
    assert outcome.usage == {"judge": (500, 500), "agent": (50, 50)}
    assert (ledger.spent.llm_calls, ledger.spent.tokens) == (2, 1100)


async def test_requests_that_failed_or_made_vectors_count_and_further_choices_of_an_answer_do_not(
    store: LightningStore,
) -> None:
    def agent(rollout: AttemptedRollout) -> list[Span]:
        failed = {LLM_CALL_NUMBER: 1, GEN_AI_REQUEST_MODEL: "agent"}
        vectors = {LLM_CALL_NUMBER: 2, GEN_AI_REQUEST_MODEL: "vectors", GEN_AI_USAGE_INPUT_TOKENS: 70}
        choices = [call(rollout, 3), call(rollout, 3, tokens=0, more={LLM_CALL_CHOICE: 1})]
        return [span(rollout, LLM_CALL_SPAN, failed), span(rollout, EMBEDDING_SPAN, vectors), *choices]

    trials, ledger = make(store)
    async with running(store, agent):
        await trials.run(places(0))
    assert (ledger.spent.llm_calls, ledger.spent.tokens) == (3, 80)


async def test_what_a_runner_that_died_had_asked_for_is_paid(store: LightningStore) -> None:
    trials, ledger = make(store)
    asking = asyncio.create_task(trials.run(places(0)))
    lost = await dies(store)
    await store.update_attempt(lost.rollout_id, lost.attempt.attempt_id, status="unresponsive")
    async with running(store, lambda rollout: [call(rollout, 1)]):
        (outcome,) = await asking
    assert outcome.status == "succeeded"
    assert (ledger.spent.rollouts, ledger.spent.llm_calls, ledger.spent.tokens) == (1, 2, 1010)


async def test_what_was_under_way_when_the_process_was_killed_is_paid_though_it_runs_again(
    store: LightningStore,
) -> None:
    first, _ = make(store)
    asking = asyncio.create_task(first.run(places(0, 1)))
    lost = await dies(store)
    asking.cancel()
    for rollout in await store.query_rollouts():  # as `Trainer.fit` does before a run is resumed
        await store.update_rollout(rollout.rollout_id, status="cancelled")
    for _ in range(2):  # the second finds what the first has run
        trials, ledger = make(store)
        await trials.load()
        assert ledger.spent.tokens == 0, "it counts when it is asked for"
        async with running(store, lambda rollout: [call(rollout, 1)]):
            outcomes = await trials.run(places(0, 1))
        assert lost.rollout_id not in {each.rollout_id for each in outcomes}
        assert (ledger.spent.rollouts, ledger.spent.llm_calls, ledger.spent.tokens) == (2, 3, 1020)


async def test_half_of_a_batch_is_reserved_as_the_whole_was_before_the_process_was_killed(
    store: LightningStore,
) -> None:
    """The largest rollout of the half that is known says nothing yet of what may be reserved for the other half."""

    def agent(rollout: AttemptedRollout) -> list[Span]:
        large = rollout.input["number"] == 1
        return [call(rollout, number) for number in range(1, 5 if large else 2)]

    budget = Budget(llm_calls=9)
    async with running(store, agent):
        killed, _ = make(store, budget)
        await killed.run(places(0))  # one call, so two may come of each of the next
        await killed.run(places(1))  # of the batch below only this came to its end
        resumed, ledger = make(store, budget)
        await resumed.load()
        await resumed.run(places(0))
        await resumed.run(places(1, 2, 3))
    assert ledger.spent.llm_calls == 7
