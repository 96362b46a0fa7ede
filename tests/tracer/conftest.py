"""A gateway whose backend answers each call with an id and tokens of its own, and agents of real libraries."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from agentlightning.instrumentation import uninstrument_all
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import OtelTracer
from agentlightning.types import ChatReply, Span, TokenCall
from tests.llm_proxy.conftest import LocalBackend

SECRET = "sk-do-not-write-me-down"
LONG = "a long prompt " * 2000
Agent = Callable[[str], Awaitable[Any]]
"""Given the base URL of its attempt."""


class NumberedBackend(LocalBackend):
    """Call number n has the id `chatcmpl-n` and the response tokens (100 + n, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)

    def _reply(self, body: dict[str, Any]) -> ChatReply:
        reply, number = super()._reply(body), next(self._numbers)
        reply.response["id"] = f"chatcmpl-{number}"
        tokens = np.array([100 + number, 2], np.int32)
        probs = np.array([-0.5, -0.25], np.float32)
        call = TokenCall(body["model"], np.array([1, 2, 3], np.int32), tokens, probs, "stop")
        return ChatReply(reply.response, [call])


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    home = InMemoryLightningStore()
    yield home
    await home.close()


@pytest.fixture
def backend() -> NumberedBackend:
    return NumberedBackend()


@pytest.fixture
async def proxy(store: InMemoryLightningStore, backend: NumberedBackend) -> AsyncIterator[LLMProxy]:
    gateway = LLMProxy(store=store)
    gateway.set_backend("tiny", backend)
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    uninstrument_all()


async def attempts(tracer: OtelTracer, proxy: LLMProxy, *agents: Agent) -> list[list[Span]]:
    """The spans of one attempt of each agent, all at once."""
    store = proxy.get_store()
    assert store is not None

    async def one(agent: Agent) -> list[Span]:
        rollout = await store.start_rollout("a task")
        ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
        async with tracer.trace_context(store=store, **ids):
            await agent(proxy.as_resource(**ids).endpoint)
        return list(await store.query_spans(rollout.rollout_id))

    return list(await asyncio.gather(*map(one, agents)))


# -- agents ---------------------------------------------------------------------------------------------------------

SECRET_HEADERS = {"X-Api-Key": SECRET, "Authorization": f"Bearer {SECRET}"}
ASKED: list[Any] = [{"role": "user", "content": LONG}]


async def openai_agent(url: str) -> None:
    """Three calls: whole, streamed, and as a response."""
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key=SECRET)
    await client.chat.completions.create(model="tiny", messages=ASKED, extra_headers=SECRET_HEADERS)
    async for _ in await client.chat.completions.create(model="tiny", messages=ASKED, stream=True):
        pass
    await client.responses.create(model="tiny", input=LONG)


async def sync_openai_agent(url: str) -> None:
    """Two calls in a thread."""
    import openai

    client = openai.OpenAI(base_url=url, api_key=SECRET)
    for _ in range(2):
        await asyncio.to_thread(client.chat.completions.create, model="tiny", messages=ASKED)


async def anthropic_agent(url: str) -> None:
    """Two calls: whole and streamed."""
    import anthropic

    client = anthropic.AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key=SECRET)
    await client.messages.create(model="tiny", messages=ASKED, max_tokens=8, extra_headers=SECRET_HEADERS)
    async with client.messages.stream(model="tiny", messages=ASKED, max_tokens=8) as stream:
        await stream.get_final_message()


def agents_sdk(*names: str, responses: bool = False, sync: bool = False) -> Agent:
    """An agent of the OpenAI Agents SDK for each name, one after the other; `sync`: in a thread."""

    def team(url: str) -> list[Any]:
        import agents
        import openai

        client = openai.AsyncOpenAI(base_url=url, api_key=SECRET)
        kind = agents.OpenAIResponsesModel if responses else agents.OpenAIChatCompletionsModel
        return [agents.Agent(name=name, instructions=f"you are {name}", model=kind("tiny", client)) for name in names]

    def run_sync(url: str) -> None:
        from agents import Runner

        for agent in team(url):
            Runner.run_sync(agent, LONG)

    async def run(url: str) -> None:
        from agents import Runner

        if sync:
            await asyncio.to_thread(run_sync, url)
            return
        for agent in team(url):
            await Runner.run(agent, LONG)

    return run


def graph(*names: str, sync: bool = False) -> Agent:
    """A graph of LangGraph with a node for each name; each asks the model; `sync`: in a thread."""

    async def run(url: str) -> None:
        from langchain_openai import ChatOpenAI
        from langgraph.graph import END, START, MessagesState, StateGraph

        model: Any = ChatOpenAI(model="tiny", base_url=url, api_key=SECRET, default_headers=SECRET_HEADERS)

        async def ask(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        def ask_sync(state: MessagesState) -> dict[str, Any]:
            return {"messages": [model.invoke(state["messages"])]}

        built: Any = StateGraph(MessagesState)
        for before, name in zip([START, *names], names, strict=False):
            built.add_node(name, ask_sync if sync else ask)
            built.add_edge(before, name)
        built.add_edge(names[-1], END)
        asked = {"messages": [("user", LONG)]}
        await (asyncio.to_thread(built.compile().invoke, asked) if sync else built.compile().ainvoke(asked))

    return run
