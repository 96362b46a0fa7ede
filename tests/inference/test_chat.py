"""Request bodies: what is honoured, what is refused, and that nothing odd gets through."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.inference import chat_request
from agentlightning.inference.chat import messages_for_template
from agentlightning.inference.chat_request import parse_chat_request
from agentlightning.inference.completion_request import parse_completion_request
from agentlightning.types import RequestError

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_every_honoured_field_arrives() -> None:
    request = parse_chat_request(
        {
            "model": "m",
            "messages": HELLO,
            "tools": [TOOL],
            "tool_choice": "auto",
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 6,
            "max_tokens": 9,
            "max_completion_tokens": 7,
            "stop": "\n",
            "stop_token_ids": [3],
            "seed": 11,
            "n": 3,
            "logprobs": True,
            "return_token_ids": True,
            "top_logprobs": 4,
            "stream": True,
            "stream_options": {"include_usage": True, "include_obfuscation": False},
        }
    )
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0, 0.5, 6, 7)
    assert (params.stop, params.stop_token_ids, params.seed, params.top_logprobs) == (("\n",), (3,), 11, 4)
    assert (request.model, request.n, request.logprobs, request.return_token_ids) == ("m", 3, True, True)
    assert request.tools == [TOOL]
    assert request.include_usage


def test_null_is_absent_and_neutral_values_ask_for_nothing() -> None:
    plain = parse_chat_request({"messages": HELLO})
    padded = parse_chat_request(
        {
            "messages": HELLO, "temperature": None, "tools": None, "top_k": -1, "min_p": 0.0, "stream": False,
            "presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": {},
            "response_format": {"type": "text"}, "user": "me", "metadata": {"a": "b"}, "store": True,
            "tool_choice": "none", "top_logprobs": 0, "modalities": ["text"], "functions": [], "stream_options": {},
            "parallel_tool_calls": False,
        }
    )  # fmt: skip
    assert padded == plain
    assert plain.params.temperature == 1.0
    assert plain.params.max_tokens is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_p", 0.1),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -0.5),
        ("repetition_penalty", 1.1),
        ("logit_bias", {"5": 1}),
        ("response_format", {"type": "grammar"}),
        ("modalities", ["text", "audio"]),
        ("web_search_options", {}),
        ("functions", [{"name": "f"}]),
        ("guided_json", {}),
        ("no_such_field", 1),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"`{field}`") as caught:
        parse_chat_request({"messages": HELLO, field: value})
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, field, "unsupported_parameter")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", -1),
        ("temperature", 10**400),
        ("top_p", 0),
        ("top_k", -2),
        ("top_k", 1.5),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_completion_tokens", "10"),
        ("n", 0),
        ("n", 1000),
        ("n", "2"),
        ("seed", 1.5),
        ("stop", 5),
        ("stop", ["a", 5]),
        ("stop", ["a"] * 17),
        ("stop_token_ids", 5),
        ("logprobs", 5),
        ("model", 5),
        ("stream", "yes"),
        ("stream_options", True),
        ("stream_options", {"include_usage": "yes"}),
        ("top_logprobs", 3),
        ("response_format", "json"),
        ("tools", {}),
        ("tools", ["f"]),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "retrieval", "function": {"name": "f"}}]),
        ("tools", [{"type": "function", "function": {"name": ""}}]),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": "x"}}]),
        ("messages", None),
        ("messages", []),
        ("messages", "hello"),
        ("messages", ["hello"]),
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"`{field}") as caught:
        parse_chat_request({"messages": HELLO, field: value})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("message", "at"),
    [
        ({"content": "x"}, "role"),
        ({"role": "robot", "content": "x"}, "role"),
        ({"role": "user"}, "content"),
        ({"role": "user", "content": None}, "content"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, r"content\[0\]` is of type"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, r"content\[0\]` must have a string"),
        ({"role": "user", "content": ["x"]}, r"content\[0\]"),
        ({"role": "assistant"}, "content"),
        ({"role": "assistant", "tool_calls": "x"}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, r"tool_calls\[0\]"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}, r"tool_calls\[0\]"),
        ({"role": "assistant", "content": "", "function_call": {"name": "f"}}, "function_call"),
        ({"role": "tool", "content": "3"}, "tool_call_id"),
    ],
)
def test_broken_messages_are_refused_by_place(message: Any, at: str) -> None:
    with pytest.raises(RequestError, match=rf"`messages\[1\]\.{at}") as caught:
        parse_chat_request({"messages": [*HELLO, message]})
    assert caught.value.status == 400


def test_messages_become_what_templates_want() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": [1, "ü"], "a": {}}'}}
    broken = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": '{"x": '}}
    messages = messages_for_template(
        [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call, broken], "refusal": None, "audio": None},
            {"role": "tool", "content": "3", "tool_call_id": "c1"},
            {"role": "assistant", "content": "3", "tool_calls": None},
        ]
    )
    assert messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": [1, "ü"], "a": {}}}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": '{"x": '}},
            ],
        },
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
        {"role": "assistant", "content": "3"},
    ]
    assert list(messages[2]["tool_calls"][0]["function"]["arguments"]) == ["x", "a"], "order decides the tokens"


def test_tool_choice_none_offers_no_tools() -> None:
    assert parse_chat_request({"messages": HELLO, "tools": [TOOL], "tool_choice": "none"}).tools is None


# What these clients put into a request when nobody sets much: openai-agents and pydantic-ai (their `create` calls as of
# 2026), langchain-openai's `ChatOpenAI(streaming=True)`, autogen's `OpenAIChatCompletionClient`, and litellm's SDK.
UNASKED: dict[str, dict[str, Any]] = {
    "openai-agents": {
        "tools": [{**TOOL, "function": {**TOOL["function"], "description": "", "strict": True}}],
        "stream": True, "stream_options": {"include_usage": True}, "store": True, "metadata": {"trace": "x"},
        "reasoning_effort": "low", "verbosity": "medium", "prompt_cache_retention": "24h", "prompt_cache_options": {},
    },
    "pydantic-ai": {
        "tools": [TOOL], "tool_choice": "auto", "stream": False, "max_completion_tokens": 5, "service_tier": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": True}},
    },
    "langchain-openai": {"stream": True, "stream_options": {"include_usage": True}, "n": 1, "temperature": 0.7},
    "autogen": {"tools": [TOOL], "tool_choice": "auto", "response_format": {"type": "text"}, "stream": False},
    "litellm": {"stream": True, "logit_bias": {}, "user": "u", "x": None, "response_format": {"type": "json_object"}},
}  # fmt: skip


@pytest.mark.parametrize("client", UNASKED)
def test_what_clients_send_unasked_is_served(client: str) -> None:
    assert parse_chat_request({"model": "m", "messages": HELLO} | UNASKED[client]).messages == HELLO


def test_a_response_format_is_accepted_and_said_to_be_unenforced_once(caplog: pytest.LogCaptureFixture) -> None:
    chat_request._warn_unconstrained.cache_clear()
    for kind in ("text", "json_object", "json_schema", "json_object"):
        parse_chat_request({"messages": HELLO, "response_format": {"type": kind}})
    (record,) = caplog.records
    assert "`response_format` is not enforced" in record.message


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_forced_tool_call_is_accepted_and_said_to_be_unenforced(
    choice: Any, caplog: pytest.LogCaptureFixture
) -> None:
    chat_request._warn_unconstrained.cache_clear()
    tool = {"type": "function", "function": {"name": "f"}}
    asked = parse_chat_request({"messages": HELLO, "tools": [tool], "tool_choice": choice})
    assert asked.tools == [tool]
    (record,) = caplog.records
    assert "`tool_choice` is not enforced" in record.message


@pytest.mark.parametrize(
    "choice", ["required", "always", 3, [], {"type": "function"}, {"type": "function", "function": {"name": "g"}}]
)
def test_a_forced_tool_call_needs_its_tool(choice: Any) -> None:
    tools = [] if choice == "required" else [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(RequestError, match="`tool_choice") as caught:
        parse_chat_request({"messages": HELLO, "tools": tools, "tool_choice": choice})
    assert caught.value.status == 400


def test_one_call_at_most_ends_at_its_closing_tag() -> None:
    body = {"messages": HELLO, "tools": [TOOL], "parallel_tool_calls": False, "stop": ["x"]}
    assert parse_chat_request(body).params.stop == ("x", "</tool_call>")
    assert parse_chat_request(body | {"tools": []}).params.stop == ("x",)


def test_refusals_in_parts_are_text() -> None:
    parts = [{"type": "refusal", "refusal": "no, "}, {"type": "text", "text": "thanks"}]
    assert messages_for_template([*HELLO, {"role": "assistant", "content": parts}])[1]["content"] == "no, thanks"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    [
        *("model", "tools", "tool_choice", "temperature", "top_p", "max_tokens", "stop", "seed", "n", "logprobs"),
        *("messages", "top_logprobs", "stream", "stream_options", "response_format", "parallel_tool_calls"),
        *("prompt", "best_of"),
    ]
)
message_fields = st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "name"])


@settings(deadline=None)
@given(
    body=st.dictionaries(fields, json_values, max_size=4),
    message=st.dictionaries(message_fields, json_values | st.sampled_from(["user", "assistant", "tool"]), max_size=4),
)
def test_any_json_is_either_served_or_refused(body: dict[str, Any], message: dict[str, Any]) -> None:
    for candidate in (body, {"messages": [message]} | body, {"messages": [message]}):
        with contextlib.suppress(RequestError):
            parse_chat_request(candidate)
        with contextlib.suppress(RequestError):
            parse_completion_request(candidate)
