"""The openai-agents SDK on the Responses API: a tool, two turns, streamed and not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import agents
import openai
import pytest

from .responses_peer import Json, Peer, call, chunk, completion, deltas, serving

FIRST = {"content": "I look. ", "tool_calls": [call("call_7", "look", '{"place":  "attic"}')]}
SECOND = {"content": "A cat."}


@pytest.fixture
def peer() -> Iterator[tuple[Peer, str]]:
    found = Peer()
    answers = [completion(FIRST, "tool_calls", "one"), completion(SECOND, "stop", "two")]
    for answer, key in zip(answers, ("one", "two"), strict=True):
        found.script.append((answer, [chunk(delta, key) for delta in deltas(answer["choices"][0]["message"], 4)]))
    with serving(found) as url:
        yield found, url


def agent_on(url: str, seen: list[str]) -> Any:
    @agents.function_tool
    def look(place: str) -> str:
        """Look somewhere."""
        seen.append(place)
        return "cat"

    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    model = agents.OpenAIResponsesModel(model="tiny", openai_client=client)
    return agents.Agent(name="finder", instructions="Find it.", model=model, tools=[look])


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_with_a_tool(peer: tuple[Peer, str], stream: bool) -> None:
    untraced = agents.RunConfig(tracing_disabled=True)  # not for the whole process: other tests look at traces
    server, url = peer
    seen: list[str] = []
    agent = agent_on(url, seen)
    if stream:
        result = agents.Runner.run_streamed(agent, "where is it", run_config=untraced)
        async for _ in result.stream_events():
            await asyncio.sleep(0)
    else:
        result = await agents.Runner.run(agent, "where is it", run_config=untraced)
    assert (result.final_output, seen) == ("A cat.", ["attic"])
    first, second = server.asked
    assert first["messages"] == [
        {"role": "system", "content": "Find it."},
        {"role": "user", "content": "where is it"},
    ]
    assert first["tools"][0]["function"]["name"] == "look"
    history: list[Json] = second["messages"]
    assert history[:2] == first["messages"]
    assert history[2:] == [
        {"role": "assistant", **FIRST},
        {"role": "tool", "tool_call_id": "call_7", "content": "cat"},
    ]
