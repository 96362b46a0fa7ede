"""LLM calls as OpenAI messages, from the gateway's spans and from flattened ones."""

from __future__ import annotations

import json
from typing import Any

from agentlightning.adapter import TraceToMessages
from agentlightning.semconv import LLM_CALL_CHOICE, LLM_CALL_SPAN

from .spans import failed_call, llm_call, reward, span

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
FLAT: dict[str, Any] = {
    "gen_ai.response.id": "c1",
    "gen_ai.prompt.0.role": "user",
    "gen_ai.prompt.0.content": "hi",
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.finish_reason": "stop",
}


def gateway_call(sequence_id: int, asked: str, answered: str, **attributes: Any):
    made = llm_call(sequence_id, [1], [2])
    made.attributes["gen_ai.input.messages"] = json.dumps([{"role": "user", "content": asked}])
    made.attributes["gen_ai.output.messages"] = json.dumps([{"role": "assistant", "content": answered}])
    made.attributes |= attributes
    return made


def test_every_call_is_a_conversation() -> None:
    tools = {"gen_ai.tool.definitions": json.dumps([TOOL])}
    spans = [gateway_call(3, "b", "y"), failed_call(2), gateway_call(1, "a", "x", **tools), reward(4, 1.0)]
    assert TraceToMessages()(spans) == [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}], "tools": [TOOL]},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "y"}], "tools": None},
    ]
    assert TraceToMessages()([]) == []


def test_choices_are_apart_and_twins_are_one() -> None:
    twin = span(1, LLM_CALL_SPAN, {**FLAT, "gen_ai.response.id": "chat-2", "gen_ai.completion.0.content": "x"})
    second = gateway_call(3, "a", "y", **{"gen_ai.response.id": "chat-2", LLM_CALL_CHOICE: 1})
    found = TraceToMessages()([twin, gateway_call(2, "a", "x"), second])
    assert [each["messages"][-1]["content"] for each in found] == ["x", "y"]


def test_flattened_messages_tools_and_tool_calls() -> None:
    attributes = {
        **FLAT,
        "gen_ai.prompt.1.role": "assistant",
        "gen_ai.prompt.1.tool_calls.0.id": "call_1",
        "gen_ai.prompt.1.tool_calls.0.name": "f",
        "gen_ai.prompt.1.tool_calls.0.arguments": '{"x": 1}',
        "gen_ai.prompt.2.role": "tool",
        "gen_ai.prompt.2.tool_call_id": "call_1",
        "gen_ai.prompt.2.content": "7",
        "gen_ai.completion.0.content": "seven",
        "gen_ai.request.functions.0.name": "f",
        "gen_ai.request.functions.0.description": "d",
        "gen_ai.request.functions.0.parameters": '{"type": "object"}',
    }
    (found,) = TraceToMessages()([span(1, LLM_CALL_SPAN, attributes)])
    assert found["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [TOOL_CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "7"},
        {"role": "assistant", "content": "seven"},
    ]
    assert found["tools"] == [TOOL]


def test_tool_calls_come_from_the_spans_of_tools_where_the_answer_lacks_them() -> None:
    call = span(1, LLM_CALL_SPAN, FLAT)
    tool = span(2, "tool", {"tool.name": "f", "tool.parameters": '{"x": 1}', "tool.call.id": "call_1"})
    tool.parent_id = call.span_id
    other = span(3, "tool", {"tool.name": "g"})
    (found,) = TraceToMessages()([call, tool, other])
    assert found["messages"][-1] == {"role": "assistant", "tool_calls": [TOOL_CALL]}
