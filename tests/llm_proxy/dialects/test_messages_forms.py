"""The Messages interface's forms, one by one: what each field and block becomes, and what is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentlightning.llm_proxy.dialects.messages import MESSAGES
from agentlightning.types import RequestError

from .messages_app import CALL, completion

Json = dict[str, Any]
ON = {"role": "user", "content": "on"}


def to_chat(*messages: Json, **more: Any) -> Json:
    return MESSAGES.to_chat({"model": "m", "max_tokens": 5, "messages": list(messages), **more})


def text(value: str) -> Json:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"stop_sequences": ["END"]}, {"stop": ["END"]}),
        ({"stop_sequences": []}, {}),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 5}, {"temperature": 0.5, "top_p": 0.9, "top_k": 5}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}, "service_tier": "auto"}, {}),
        ({"container": None, "context_management": {}}, {}),
        ({"seed": 3, "min_p": 0.1}, {"seed": 3, "min_p": 0.1}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        ({"tools": [], "tool_choice": {"type": "auto"}}, {}),
    ],
)
def test_fields(given: Json, expected: Json) -> None:
    assert to_chat(ON, **given) == {"model": "m", "max_tokens": 5, "messages": [ON]} | expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {}),
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ],
)
def test_tools(choice: Json | None, expected: Json) -> None:
    tool = {"type": "custom", "name": "f", "input_schema": {"type": "object"}, "strict": True, "cache_control": {}}
    chat = to_chat(ON, tools=[tool], tool_choice=choice)
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert chat["tools"] == [{"type": "function", "function": function}]
    assert {name: chat[name] for name in ("tool_choice", "parallel_tool_calls") if name in chat} == expected


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
WEB = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
WEB_PART = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
USE = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Zürich"}}
SAID = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Zürich"}'}}


def result(content: Any, **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": "call_1", "content": content, **more}


def tool(content: Any) -> Json:
    return {"role": "tool", "tool_call_id": "call_1", "content": content}


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([text("a")], [{"role": "user", "content": "a"}]),
        ([text("a"), text("b")], [{"role": "user", "content": [text("a"), text("b")]}]),
        ([text("a"), PNG, WEB], [{"role": "user", "content": [text("a"), PNG_PART, WEB_PART]}]),
        ([], [{"role": "user", "content": ""}]),
        ([result("x"), result([text("y")])], [tool("x"), tool("y")]),
        ([result("x"), text("go on"), PNG], [tool("x"), {"role": "user", "content": [text("go on"), PNG_PART]}]),
        ([{"type": "tool_result", "tool_use_id": "call_1"}], [tool("")]),
        ([result("no network", is_error=True)], [tool("Error: no network")]),
        ([result("error: no network", is_error=True)], [tool("error: no network")]),
        ([result([text("seen"), PNG], is_error=True)], [tool([text("Error:"), text("seen"), PNG_PART])]),
    ],
)
def test_user_turns(blocks: list[Json], expected: list[Json]) -> None:
    assert to_chat({"role": "user", "content": blocks})["messages"] == expected


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([text("a"), text("b")], {"content": "ab"}),
        ([], {"content": ""}),
        ([USE], {"content": None, "tool_calls": [SAID]}),
        ([text("a"), USE, text("b")], {"content": "ab", "tool_calls": [SAID]}),
        (
            [{"type": "thinking", "thinking": "hm", "signature": "EqRk"}, {"type": "redacted_thinking", "data": "x"}],
            {"content": "", "reasoning": "hm"},
        ),
        (
            [{"type": "thinking", "thinking": "hm", "signature": "reasoning_content"}, text("a")],
            {"content": "a", "reasoning_content": "hm"},
        ),
    ],
)
def test_assistant_turns(blocks: list[Json], expected: Json) -> None:
    said = to_chat({"role": "assistant", "content": blocks}, ON)["messages"]
    assert said == [{"role": "assistant", **expected}, ON]


def test_neighbouring_turns_of_one_role_are_one() -> None:
    said = to_chat(
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [result("x")]},
        {"role": "user", "content": "d"},
    )["messages"]
    assert said == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": "c", "tool_calls": [SAID]},
        tool("x"),
        {"role": "user", "content": "d"},
    ]


def test_system_prompts() -> None:
    billing = text("x-anthropic-billing-header: cc_version=2; cch=a1b2c")
    for system, expected in [
        ("Be brief.", "Be brief."),
        ([text("Be brief.") | {"cache_control": {"type": "ephemeral"}}], "Be brief."),
        ([billing, text("Be"), text("brief.")], [text("Be"), text("brief.")]),
    ]:
        assert to_chat(ON, system=system)["messages"][0] == {"role": "system", "content": expected}
    assert to_chat(ON, system=[billing])["messages"] == [ON]
    within = to_chat(ON, {"role": "system", "content": "now brief"}, ON)["messages"]
    assert [message["role"] for message in within] == ["user", "system", "user"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type"),
        ({"messages": [ON, {"role": "assistant", "content": [PNG]}, ON]}, "messages[1].content[0].type"),
        ({"messages": [{"role": "user", "content": [USE]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [result([USE])]}]}, "messages[0].content[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [ON, {"role": "assistant", "content": "It is"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages[0].content[0].source.type",
        ),
        ({"messages": [ON], "system": [PNG | {"type": "document"}]}, "system[0].type"),
        ({"messages": [ON], "container": "c"}, "container"),
        ({"messages": [ON], "mcp_servers": [{}]}, "mcp_servers"),
        ({"messages": [ON], "thread": {"type": "create"}}, "thread"),
        ({"messages": [ON], "compaction": {"type": "enabled"}}, "compaction"),
        ({"messages": [ON], "tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"messages": [ON], "tools": [{"name": "f"}]}, "tools[0].input_schema"),
        (
            {"messages": [ON], "tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "x"}},
            "tool_choice.type",
        ),
        ({"messages": [ON], "output_config": {"format": {"type": "regex"}}}, "output_config.format.type"),
    ],
)
def test_what_chat_completions_have_not_is_named(body: Json, where: str) -> None:
    with pytest.raises(RequestError) as caught:
        MESSAGES.to_chat(body)
    assert (caught.value.status, caught.value.param) == (400, where)
    assert f"`{where}`" in caught.value.message


def test_a_thread_is_refused_as_anthropics_client_expects() -> None:
    """Its tool runner then goes on without one."""
    with pytest.raises(RequestError) as caught:
        MESSAGES.to_chat({"messages": [ON], "thread": {"type": "create"}})
    assert MESSAGES.error(caught.value)["error"]["details"] == {"error_code": "thread_unsupported_request"}


def test_a_request_without_messages_is_refused_at_once() -> None:
    for body in ({}, {"messages": "Hi"}):
        with pytest.raises(RequestError, match="`messages` must be a list of messages"):
            MESSAGES.check(body)
    MESSAGES.check({"messages": []})


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"finish_reason": "stop"}, ("end_turn", None)),
        ({"finish_reason": "stop", "stop_reason": "END"}, ("stop_sequence", "END")),
        ({"finish_reason": "stop", "stop_reason": 151643}, ("end_turn", None)),
        ({"finish_reason": "stop", "matched_stop": "END"}, ("stop_sequence", "END")),
        ({"finish_reason": "length"}, ("max_tokens", None)),
        ({"finish_reason": "content_filter"}, ("refusal", None)),
        ({"finish_reason": "tool_calls"}, ("tool_use", None)),
        ({"finish_reason": "stop", "message": {"content": None, "tool_calls": [CALL]}}, ("tool_use", None)),
        ({"finish_reason": "length", "message": {"content": None, "tool_calls": [CALL]}}, ("max_tokens", None)),
        ({"finish_reason": "abort"}, ("end_turn", None)),
    ],
)
def test_why_an_answer_ended(choice: Json, expected: tuple[str, str | None]) -> None:
    response = completion({"content": "x"})
    response["choices"][0] |= choice
    answer = MESSAGES.from_chat({}, response)
    assert (answer["stop_reason"], answer["stop_sequence"]) == expected


def test_the_whole_form_of_an_answer() -> None:
    response = completion({"reasoning": "hm", "content": "It is", "tool_calls": [CALL]}, "tool_calls")
    response["usage"]["prompt_tokens_details"] = {"cached_tokens": 4}
    assert MESSAGES.from_chat({"model": "asked"}, response) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "reasoning"}, text("It is"), USE],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 7,
        },
    }


def test_answers_that_lack_something() -> None:
    with pytest.raises(RequestError, match="no `choices`"):
        MESSAGES.from_chat({}, {"choices": []})
    nameless = completion({"content": None, "refusal": "I won't", "tool_calls": [CALL | {"id": ""}]})
    del nameless["usage"]
    answer = MESSAGES.from_chat({}, nameless)
    assert answer["content"] == [text("I won't"), USE | {"id": "toolu_1_0"}]
    assert answer["usage"]["output_tokens"] == 0


def test_a_stream_without_chunks_is_an_answer_still() -> None:
    response = completion({"content": ""})
    events = MESSAGES.translator({}).end(response)
    assert [event["type"] for event in events] == ["message_start", "message_delta", "message_stop"]
    assert events[0]["message"]["id"] == "msg_1"
    assert events[1]["usage"]["input_tokens"] == 11
    assert list(map(MESSAGES.is_end, events)) == [False, True, True]


def test_frames_name_their_event() -> None:
    frame = MESSAGES.frame({"type": "message_stop", "x": "ü\n"})
    head, data, *rest = frame.decode().split("\n")
    assert (head, rest) == ("event: message_stop", ["", ""])
    assert orjson.loads(data.removeprefix("data: ")) == {"type": "message_stop", "x": "ü\n"}
