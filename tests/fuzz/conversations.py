"""Requests of each interface with everything in them. Used by `test_requests` and `seeds`."""

from __future__ import annotations

from typing import Any

from tests.llm_proxy.agents import FUNCTION, Name, body_of

Json = dict[str, Any]
ARGUMENTS = '{"expression": "3 + 4"}'


def conversation(name: Name) -> Json:
    """A request with everything in it: a tool that was called, its result, an image."""
    body = body_of(name, model="MODEL", tools=True, image=True)
    if name == "chat":
        call = {"id": "c", "type": "function", "function": {"name": FUNCTION["name"], "arguments": ARGUMENTS}}
        body["messages"] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is 3 plus 4?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "7"},
        ]
    elif name == "responses":
        body["input"] += [
            {
                "type": "reasoning",
                "id": "rs_agl_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "?"}],
            },
            {"type": "function_call", "id": "fc_agl_1_0", "call_id": "c", "name": FUNCTION["name"], "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "7"}]},
        ]
    elif name == "messages":
        use = {"type": "tool_use", "id": "c", "name": FUNCTION["name"], "input": {"expression": "3 + 4"}}
        body["system"] = [{"type": "text", "text": "Be brief."}]
        body["messages"] += [
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "reasoning"}, use]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "7"}]},
        ]
    return body
