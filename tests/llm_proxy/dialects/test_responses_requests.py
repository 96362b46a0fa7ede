"""Responses requests as chat completion requests: each field, each item, each refusal, and any JSON at all."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlightning.llm_proxy.dialects.responses import RESPONSES
from agentlightning.types import RequestError

Json = dict[str, Any]


def chat(**fields: Any) -> Json:
    return RESPONSES.to_chat({"model": "tiny", "input": "hello", **fields})


def conversation(*items: Json) -> list[Json]:
    return chat(input=list(items))["messages"]


def refusal(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert caught.value.status == 400
    return caught.value


def test_text_is_a_users_message_behind_the_instructions() -> None:
    assert chat(instructions="be brief") == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
    }


def test_fields_that_chat_completions_name_otherwise() -> None:
    schema = {"type": "object", "properties": {}}
    asked = chat(
        max_output_tokens=9,
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=3,
    )
    del asked["messages"], asked["model"]
    assert asked == {
        "max_tokens": 9,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        "verbosity": "low",
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 3,
    }


def test_fields_that_stay_and_fields_that_go() -> None:
    stay = {
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
        "user": "u",
        "top_k": 5,
        "seed": 1,
        "service_tier": "auto",
    }
    go = {
        "store": True,
        "metadata": {"a": "b"},
        "truncation": "auto",
        "background": False,
        "previous_response_id": None,
        "max_tool_calls": 3,
        "stream_options": {"include_obfuscation": False},
        "text": {"format": {"type": "text"}},
        "reasoning": {"summary": "auto"},
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
    }
    asked = chat(**stay, **go)
    assert {name: value for name, value in asked.items() if name not in ("model", "messages")} == stay


def test_tools_are_nested() -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True, "description": None}
    asked = chat(tools=[tool], tool_choice={"type": "function", "name": "look"}, parallel_tool_calls=False)
    function = {"name": "look", "parameters": {"type": "object"}, "strict": True}
    assert asked["tools"] == [{"type": "function", "function": function}]
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert asked["parallel_tool_calls"] is False
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]}
    assert chat(tools=[tool], tool_choice=allowed)["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "look"}}]},
    }


def test_every_kind_of_input_part() -> None:
    parts = [
        {"type": "input_text", "text": "what is it"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "AA=="},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    (message,) = conversation({"type": "message", "role": "user", "content": parts})
    assert message["content"] == [
        {"type": "text", "text": "what is it"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "file", "file": {"file_data": "AA==", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    image = {"type": "input_image", "image_url": "data:,"}
    assert conversation({"type": "function_call_output", "call_id": "c", "output": [image]}) == [
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    ]


def test_an_answer_in_several_items_is_one_message() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "I look. "}]}
    calls = [
        {"type": "function_call", "call_id": f"c{at}", "name": "look", "arguments": f'{{"at":  {at}}}'} for at in (1, 2)
    ]
    outputs = [{"type": "function_call_output", "call_id": f"c{at}", "output": f"{at}"} for at in (1, 2)]
    end = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert conversation({"role": "developer", "content": "go"}, thought, said, *calls, *outputs, end) == [
        {"role": "developer", "content": "go"},
        {
            "role": "assistant",
            "content": "I look. ",
            "reasoning": "hm",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":  1}'}},
                {"id": "c2", "type": "function", "function": {"name": "look", "arguments": '{"at":  2}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "assistant", "content": "", "refusal": "no"},
    ]


def test_two_answers_in_a_row_stay_two() -> None:
    first, second = ({"role": "assistant", "content": text} for text in "ab")
    thought = {"type": "reasoning", "id": "rs_2", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    assert [message["content"] for message in conversation(first, second)] == ["a", "b"]
    said = conversation(first, thought, second)
    assert [(message["content"], message.get("reasoning")) for message in said] == [("a", None), ("b", "hm")]


def test_reasoning_that_was_hidden_is_left_out() -> None:
    hidden = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}]}
    assert conversation(hidden, {"role": "user", "content": "q"}, hidden) == [{"role": "user", "content": "q"}]


@pytest.mark.parametrize(
    ("fields", "param", "mend"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation in `input`"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "send the whole conversation in `input`"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "send its text"),
        ({"background": True}, "background", "leave it out"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "`input`"),
        ({"n": 2}, "n", "leave it out"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
        ({"tools": [{"type": "function", "name": None}]}, "tools[0].name", "must be a string, not null"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", "'web_search'"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "`json_schema`"),
        ({"text": "short"}, "text", "must be an object, not a string"),
        ({"instructions": 5}, "instructions", "must be a string, not a number"),
        ({"input": None}, "input", "a string or a list of items, not null"),
        ({"input": []}, "input", "is empty"),
        ({"input": ["hi"]}, "input[0]", "must be an object, not a string"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]", "send the item itself"),
        ({"input": [{"id": "msg_1"}]}, "input[0]", "send the item itself"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type", "'web_search_call'"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "assistant"),
        ({"input": [{"role": "user"}]}, "input[0].content", "must be a list, not null"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0]",
            "`image_url`",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "look"}]},
            "input[0].arguments",
            "must be a string, not null",
        ),
    ],
)
def test_refusals_name_the_field_and_the_mend(fields: Json, param: str, mend: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert f"`{param}`" in error.message
    assert mend in error.message


def test_a_request_is_not_changed() -> None:
    body = {"model": "tiny", "input": [{"role": "user", "content": "q"}], "tools": [{"type": "function", "name": "f"}]}
    before = str(body)
    RESPONSES.to_chat(body)
    assert str(body) == before


_any = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


def likely(words: str, inner: st.SearchStrategy[Any] = _any) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(words.split()), inner)


def loosely(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects of about this form: any field may be missing or something else."""
    return st.one_of(
        st.fixed_dictionaries({}, optional={name: st.one_of(of, _any) for name, of in fields.items()}), _any
    )


_parts = loosely(
    type=likely("input_text output_text text refusal input_image input_file input_audio reasoning_text"),
    text=likely("a"),
    refusal=likely("no"),
    image_url=likely("data:,"),
    file_data=likely("AA=="),
    input_audio=_any,
)
_items = loosely(
    type=likely("message function_call function_call_output reasoning item_reference web_search_call"),
    role=likely("user assistant system developer"),
    id=likely("msg_agl_1 fc_agl_1_0 rs_agl_2 msg_5"),
    content=st.one_of(likely("hi"), st.lists(_parts, max_size=2)),
    output=st.one_of(likely("5"), st.lists(_parts, max_size=2)),
    call_id=likely("c1"),
    name=likely("look"),
    arguments=likely("{}"),
)
_tools = loosely(type=likely("function web_search"), name=likely("look"), parameters=_any, mode=likely("auto"))
_bodies = st.fixed_dictionaries(
    {"input": st.one_of(st.lists(_items, max_size=4), _any)},
    optional={
        "instructions": likely("be brief"),
        "tools": st.one_of(st.lists(_tools, max_size=2), _any),
        "tool_choice": st.one_of(likely("auto required"), _tools, loosely(type=likely("allowed_tools"), tools=_any)),
        "text": loosely(format=loosely(type=likely("text json_object json_schema"), schema=_any)),
        "reasoning": loosely(effort=likely("low")),
        "include": _any,
        "top_logprobs": _any,
        "previous_response_id": st.none(),
    },
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(_bodies)
def test_any_json_is_translated_or_refused(body: Json) -> None:
    with contextlib.suppress(RequestError):
        messages = RESPONSES.to_chat({"model": "tiny", **body})["messages"]
        assert messages
        assert {message["role"] for message in messages} <= {"user", "assistant", "system", "developer", "tool"}
