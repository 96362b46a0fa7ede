"""Real libraries with their real instrumentations, calling the real gateway."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentlightning.adapter import LlmProxyTraceToTriplet, TracerTraceToTriplet, TraceToMessages, episode_from_spans
from agentlightning.credit import by_agent
from agentlightning.emitter import emit_reward
from agentlightning.instrumentation import instrument_all, uninstrument_all
from agentlightning.llm_proxy import LLMProxy
from agentlightning.tracer import OtelTracer, libraries
from agentlightning.types import ConfigError, Span

from .conftest import LONG, SECRET, Agent, agents_sdk, anthropic_agent, attempts, graph, openai_agent, sync_openai_agent

LLM_SPANS = {"openai.chat", "openai.response", "anthropic.chat", "ChatOpenAI.chat"}


def told(spans: list[Span]) -> list[Span]:
    """The spans of LLM calls that clients wrote."""
    return [span for span in spans if span.name in LLM_SPANS and "gen_ai.response.id" in span.attributes]


def responses(tokens: list[Any]) -> list[int]:
    return sorted(ids[0] for ids in tokens)


@pytest.mark.parametrize(
    ("library", "agent", "calls"),
    [
        ("openai", openai_agent, 3),
        ("openai", sync_openai_agent, 2),
        ("anthropic", anthropic_agent, 2),
        ("openai-agents", agents_sdk("solver", responses=True), 1),
        ("langgraph", graph("solver", "critic"), 2),
        (["openai", "openai-agents"], agents_sdk("solver", "critic"), 2),
    ],
    ids=["openai", "openai in threads", "anthropic", "agents with responses", "langgraph", "agents with chat"],
)
async def test_a_call_seen_by_gateway_and_client_counts_once(
    proxy: LLMProxy, library: Any, agent: Agent, calls: int
) -> None:
    tracer = OtelTracer(instrument=[library] if isinstance(library, str) else library)
    with tracer.lifespan():
        (spans,) = await attempts(tracer, proxy, agent)
    tokens = [101 + index for index in range(calls)]
    assert len(told(spans)) == calls
    for match in (r"openai\.chat\.completion", r"chat$|completion$"):
        triplets = TracerTraceToTriplet(llm_call_match=match).adapt(spans)
        assert responses([triplet.response["token_ids"] for triplet in triplets]) == tokens
    assert responses([t.response["token_ids"] for t in LlmProxyTraceToTriplet().adapt(spans)]) == tokens
    episode = episode_from_spans(spans, spans[0].rollout_id)
    assert responses([turn.call.response_ids.tolist() for turn in episode.turns]) == tokens
    assert len(TraceToMessages().adapt(spans)) == calls

    text = "\n".join(span.model_dump_json() for span in spans)
    assert SECRET not in text
    assert all(LONG.strip() in str(span.attributes["gen_ai.input.messages"]) for span in told(spans))


async def rewarded(agent: Agent, rewards: dict[str, float]) -> Agent:
    async def run(url: str) -> None:
        await agent(url)
        emit_reward(rewards, primary_key=next(iter(rewards)))

    return run


@pytest.mark.parametrize("kind", [agents_sdk, graph], ids=["openai-agents", "langgraph"])
async def test_the_credit_rule_by_agent_knows_the_agents_of_a_library(proxy: LLMProxy, kind: Any) -> None:
    tracer = OtelTracer(instrument=["openai-agents", "langgraph"])
    team = kind("solver", "critic")
    with tracer.lifespan():
        groups = await attempts(
            tracer,
            proxy,
            await rewarded(team, {"solver": 1.0, "critic": 3.0}),
            await rewarded(team, {"solver": 0.0, "critic": 4.0}),
        )
    first, second = (episode_from_spans(spans, spans[0].rollout_id) for spans in groups)
    assert [turn.agent for turn in first.turns] == [turn.agent for turn in second.turns] == ["solver", "critic"]
    # The sample deviation of {1, 0} and of {3, 4} is 0.7071; the solver is above its mean, the critic below.
    assert by_agent(first, [first, second]) == pytest.approx([0.70711, -0.70711], abs=1e-4)


@pytest.mark.parametrize("sync", [False, True], ids=["tasks", "threads"])
@pytest.mark.parametrize("kind", [agents_sdk, graph], ids=["openai-agents", "langgraph"])
async def test_attempts_at_the_same_time_do_not_mix(proxy: LLMProxy, kind: Any, sync: bool) -> None:
    tracer = OtelTracer(instrument=True)
    names = [(f"one of {number}", f"two of {number}") for number in range(6)]
    with tracer.lifespan():
        groups = await attempts(tracer, proxy, *(kind(*pair, sync=sync) for pair in names))
    for pair, spans in zip(names, groups, strict=True):
        agents = [turn.agent for turn in episode_from_spans(spans, spans[0].rollout_id).turns]
        assert agents == [*pair]
        assert len(told(spans)) == 2
        assert len({span.trace_id for span in spans}) == 1


async def test_names_in_graphs_of_chains_and_agents(proxy: LLMProxy) -> None:
    async def agent(url: str) -> None:
        from langchain.agents import create_agent
        from langchain_core.prompts import ChatPromptTemplate
        from langchain_openai import ChatOpenAI
        from langgraph.graph import END, START, MessagesState, StateGraph

        model: Any = ChatOpenAI(model="tiny", base_url=url, api_key=SECRET)
        chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | model

        async def in_a_chain(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await chain.ainvoke({"q": "x"})]}

        built: Any = StateGraph(MessagesState)
        built.add_node("writer", in_a_chain)
        built.add_node("nameless", create_agent(model, tools=[]))
        built.add_node("node", create_agent(model, tools=[], name="planner"))
        for before, after in ((START, "writer"), ("writer", "nameless"), ("nameless", "node"), ("node", END)):
            built.add_edge(before, after)
        await built.compile().ainvoke({"messages": [("user", "hi")]})
        await chain.ainvoke({"q": "on its own"})

    tracer = OtelTracer(instrument=["langchain"])
    with tracer.lifespan():
        (spans,) = await attempts(tracer, proxy, agent)
    turns = episode_from_spans(spans, spans[0].rollout_id).turns
    assert [turn.agent for turn in turns] == ["writer", "nameless", "planner", None]


# -- on and off -----------------------------------------------------------------------------------------------------

EVERY = ["openai", "anthropic", "langchain", "openai-agents"]


async def client_spans(proxy: LLMProxy, tracer: OtelTracer) -> list[int]:
    groups = await attempts(tracer, proxy, openai_agent, anthropic_agent, graph("solver"), agents_sdk("critic"))
    return [sum(span.name in LLM_SPANS for span in spans) for spans in groups]


async def test_on_and_off_again_and_again(proxy: LLMProxy) -> None:
    tracer = OtelTracer()
    for _ in range(3):
        assert await client_spans(proxy, tracer) == [0, 0, 0, 0]
        assert instrument_all() == EVERY
        assert instrument_all(["langgraph", "openai"]) == ["langchain", "openai"]
        assert await client_spans(proxy, tracer) == [3, 2, 1, 2]  # the last: of the SDK and of the client below it
        uninstrument_all()
        uninstrument_all()


async def test_instrumentation_lasts_as_long_as_somebody_needs_it(proxy: LLMProxy) -> None:
    one, other = OtelTracer(instrument=["openai"]), OtelTracer(instrument=["openai"])

    async def calls() -> int:
        (spans,) = await attempts(OtelTracer(), proxy, sync_openai_agent)
        return len(told(spans))

    one.init()
    one.init()  # two runners share it
    other.init()
    assert await calls() == 2
    one.teardown()
    other.teardown()
    assert await calls() == 2
    one.teardown()
    assert await calls() == 0


async def test_without_a_runner_it_begins_with_the_first_attempt(proxy: LLMProxy) -> None:
    tracer = pickle.loads(pickle.dumps(OtelTracer(instrument=["openai"])))
    (spans,) = await attempts(tracer, proxy, sync_openai_agent)
    assert len(told(spans)) == 2
    tracer.teardown()
    (spans,) = await attempts(OtelTracer(), proxy, sync_openai_agent)
    assert told(spans) == []


def test_threads_may_ask_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: instrument_all(), range(8))) == [EVERY] * 8
    uninstrument_all()


PROGRAM = """
import asyncio, openai
from opentelemetry.instrumentation.openai import OpenAIInstrumentor
from agentlightning.instrumentation import instrument_all, uninstrument_all
from agentlightning.tracer import OtelTracer

OpenAIInstrumentor().instrument()

async def main():
    print(instrument_all(["openai"]))
    uninstrument_all()
    async with OtelTracer(instrument=["openai"]).trace_context() as found:
        try:
            openai.OpenAI(base_url="http://127.0.0.1:9", api_key="none", max_retries=0).completions.create(
                model="m", prompt="p"
            )
        except openai.APIConnectionError:
            pass
    print([span.name for span in found.spans])

asyncio.run(main())
"""


def test_what_the_program_instrumented_itself_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "['openai.completion']"]


def test_what_lacks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    known = {
        "openai": libraries.Library("openai", "no such instrumentation", "an-instrumentation"),
        "anthropic": libraries.Library("no-such-library-at-all", "anthropic", "another"),
    }
    monkeypatch.setattr(libraries, "LIBRARIES", known)
    with caplog.at_level(logging.WARNING):
        assert instrument_all() == instrument_all() == []
    assert [record.getMessage() for record in caplog.records] == [
        "libraries without instrumentation: `pip install an-instrumentation` or leave them out"
    ]
    with pytest.raises(ConfigError, match=r"\['crewai'\]; known are openai, anthropic"):
        OtelTracer(instrument=["crewai"]).init()


async def test_parameters_left_out_by_an_agent_are_no_warnings(
    proxy: LLMProxy, caplog: pytest.LogCaptureFixture
) -> None:
    tracer = OtelTracer(instrument=["openai", "openai-agents"])
    with tracer.lifespan(), caplog.at_level(logging.WARNING):
        (spans,) = await attempts(tracer, proxy, agents_sdk("solver"))
    assert [record for record in caplog.records if "Omit" in record.getMessage()] == []
    (call,) = told(spans)
    assert "gen_ai.request.max_tokens" not in call.attributes
