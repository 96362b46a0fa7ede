"""Proposers at work: a real store, agents that are run, an LLM behind HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentlightning.algorithm.apo.budget import Ledger
from agentlightning.algorithm.apo.candidate import Candidate, Proposal
from agentlightning.algorithm.apo.outcome import Outcome, Place
from agentlightning.algorithm.apo.state import Round, State
from agentlightning.algorithm.apo.strategies.base import Job
from agentlightning.algorithm.apo.trials import Trials
from agentlightning.algorithm.apo.writer import Writer
from agentlightning.semconv import GEN_AI_INPUT_MESSAGES, GEN_AI_OUTPUT_MESSAGES, LLM_CALL_SPAN
from agentlightning.store import LightningStore, SqlLightningStore
from agentlightning.types import PromptTemplate, Span
from tests.endpoint import Answer, Endpoint, serving

Reward = Callable[[Mapping[str, str], Any], float]
"""Texts of the prompts, task -> reward."""


async def run_agents(store: LightningStore, reward: Reward) -> None:
    """An agent that puts each prompt to an LLM, until it is cancelled. Tasks that say "crash" fail."""
    while True:
        for attempted in await store.dequeue_many_rollouts(limit=16, timeout=60):
            ids = {"rollout_id": attempted.rollout_id, "attempt_id": attempted.attempt.attempt_id}
            resources = await store.get_resources_by_id(attempted.resources_id or "")
            assert resources is not None
            texts = {name: each.template for name, each in resources.resources.items()}  # type: ignore[union-attr]
            spans = [_call(ids, text, attempted.input) for text in texts.values()]
            crash = "crash" in attempted.input["q"]
            if not crash:
                value = {
                    "agentlightning.reward.0.name": "primary",
                    "agentlightning.reward.0.value": reward(texts, attempted.input),
                }
                spans.append(
                    Span.create(
                        "agentlightning.annotation",
                        **ids,
                        attributes={**value, "agentlightning.reward.label.judge": "the judge's words"},
                    )
                )
            error = {"error": {"type": "KeyError", "message": "'place'"}} if crash else {}
            await store.end_attempt(*ids.values(), "failed" if crash else "succeeded", spans, error)


def _call(ids: dict[str, str], text: str, task: Any) -> Span:
    asked = [{"role": "user", "content": text.replace("{q}", task["q"])}]
    said = [{"role": "assistant", "content": f"answer to {task['q']}"}]
    attributes = {
        GEN_AI_INPUT_MESSAGES: orjson.dumps(asked).decode(),
        GEN_AI_OUTPUT_MESSAGES: orjson.dumps(said).decode(),
    }
    return Span.create(LLM_CALL_SPAN, **ids, attributes=attributes)


class World:
    """A state with a store, agents and an endpoint behind it."""

    def __init__(self, state: State, endpoint: Endpoint) -> None:
        self.state, self.endpoint = state, endpoint

    def add(self, parents: Sequence[Candidate], operator: str = "critique", **texts: str) -> Candidate:
        """A candidate whose texts are the first parent's but for those given."""
        made = self.state.admit(Proposal({**parents[0].texts, **texts}, tuple(parents), operator))
        assert made is not None
        self.state.archive.append(made)
        return made

    async def validated(self, *candidates: Candidate) -> None:
        await self.state.trials.run([(c, place) for c in candidates for place in self.state.all_places("val")])

    async def jobs(self, *wanted: tuple[Candidate, str], tasks: Sequence[int] = ()) -> list[Job]:
        """A job for each parent and prompt; the parent is tried on the train tasks."""
        made: list[Job] = []
        for number, (parent, component) in enumerate(wanted):
            outcomes: list[Outcome] = await self.state.trials.run([(parent, Place("train", task)) for task in tasks])
            made.append(Job(number, parent, component, outcomes))
        return made


@asynccontextmanager
async def world(
    path: Path, answer: Answer, reward: Reward, prompts: Mapping[str, PromptTemplate], train: Sequence[str]
) -> AsyncIterator[World]:
    store = SqlLightningStore(path / "store.sqlite")
    agents = asyncio.create_task(run_agents(store, reward))
    async with serving(answer) as endpoint:
        ledger = Ledger()
        datasets: Any = {"train": [{"q": q} for q in train], "val": [{"q": f"val {n}"} for n in range(4)]}
        trials = Trials(store, dict(prompts), datasets, ledger)
        writer = Writer(endpoint.client(), store, ledger, backoff=0.001, max_retries=1)
        start = Candidate("v0", {name: each.template for name, each in prompts.items()})
        yield World(State(prompts, trials, writer, ledger, 0, [start], [start], [Round(1)], start), endpoint)
    agents.cancel()
    await asyncio.gather(agents, return_exceptions=True)
    await store.close()


@pytest.fixture
def one(tmp_path: Path) -> Callable[..., Any]:
    """A world with one prompt, `p`."""

    def make(
        answer: Answer,
        reward: Reward = lambda texts, task: 0.5,
        text: str = "Do {q}.",
        train: Sequence[str] = ("a", "b", "c", "crash"),
        **fields: Any,
    ) -> Any:
        prompts = {"p": PromptTemplate(template=text, **fields)}
        return world(tmp_path, answer, reward, prompts, train)

    return make


@pytest.fixture
def two(tmp_path: Path) -> Callable[..., Any]:
    """A world with the prompts `plan` and `write`."""

    def make(answer: Answer, reward: Reward = lambda texts, task: 0.5) -> Any:
        prompts = {"plan": PromptTemplate(template="Plan {q}."), "write": PromptTemplate(template="Write {q}.")}
        return world(tmp_path, answer, reward, prompts, ("a", "b"))

    return make
