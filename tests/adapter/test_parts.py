"""Messages of OpenTelemetry's convention in OpenAI's form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentlightning.adapter import TraceToMessages
from agentlightning.adapter.parts import from_parts
from agentlightning.semconv import GEN_AI_INPUT_MESSAGES, GEN_AI_OUTPUT_MESSAGES

from .spans import span

TEXT = {"type": "text", "content": "look"}
CALL = {"type": "tool_call", "id": "c1", "name": "add", "arguments": {"a": 1}}
OPENAI_CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([TEXT], {"content": "look"}),
        ([TEXT, TEXT], {"content": "looklook"}),
        ([CALL], {"content": None, "tool_calls": [OPENAI_CALL]}),
        ([{**CALL, "arguments": '{"a":1}'}], {"content": None, "tool_calls": [OPENAI_CALL]}),
        ([{"type": "reasoning", "content": "hm"}, TEXT], {"content": "look", "reasoning_content": "hm"}),
        (
            [{"type": "tool_call_response", "id": "c1", "response": {"sum": 3}}],
            {"role": "tool", "tool_call_id": "c1", "content": '{"sum":3}'},
        ),
        (
            [TEXT, {"type": "uri", "modality": "image", "uri": "http://x/y.png"}],
            {
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
                ]
            },
        ),
        (["no part", {"type": "of a kind yet unknown"}], {"content": None}),
    ],
)
def test_a_message_of_parts(parts: list[Any], message: dict[str, Any]) -> None:
    assert from_parts({"role": "user", "parts": parts}) == {"role": "user", **message}


def test_openais_own_form_stays_as_it_is() -> None:
    message = {"role": "user", "content": "look"}
    assert from_parts(message) is message


def test_calls_that_only_an_instrumentation_saw_become_conversations() -> None:
    asked, answered = {"role": "user", "parts": [TEXT]}, {"role": "assistant", "parts": [TEXT], "finish_reason": "stop"}
    found = span(
        1,
        "openai.chat",
        {
            GEN_AI_INPUT_MESSAGES: orjson.dumps([asked]).decode(),
            GEN_AI_OUTPUT_MESSAGES: orjson.dumps([answered]).decode(),
        },
    )
    (conversation,) = TraceToMessages().adapt([found])
    assert conversation["messages"] == [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "look"},
    ]
