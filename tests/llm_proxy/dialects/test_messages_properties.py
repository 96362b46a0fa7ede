"""Properties of the Messages interface: streams equal whole answers, and answers come back as the message they were."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.llm_proxy.dialects.messages import MESSAGES
from agentlightning.llm_proxy.dialects.messages.answers import RAW_ARGUMENTS
from agentlightning.llm_proxy.dialects.messages.messages_request import messages_request
from agentlightning.types import RequestError

from .messages_app import InProcess, chunks, completion

Json = dict[str, Any]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=4).map(lambda given: orjson.dumps(given).decode())
CUTS = st.lists(st.integers(0, 5), max_size=6)


@st.composite
def answers(draw: st.DrawFn, *, cut: bool = False) -> Json:
    """A chat completion; with `cut`, one whose last tool call the length limit cut off."""
    message: Json = {"content": draw(TEXTS) or None}
    thought = draw(st.sampled_from([None, "reasoning", "reasoning_content"]))
    if thought is not None:
        message[thought] = draw(TEXTS)
    given = draw(st.lists(ARGUMENTS, min_size=int(cut), max_size=3))
    calls = [
        {"id": f"call_{at}", "type": "function", "function": {"name": f"tool_{at}", "arguments": arguments}}
        for at, arguments in enumerate(given)
    ]
    if cut:
        function: Json = calls[-1]["function"]
        function["arguments"] = function["arguments"][: draw(st.integers(1, len(function["arguments"])))]
    if calls:
        message["tool_calls"] = calls
    elif message["content"] is None:
        message["content"] = ""
    finish = "length" if cut else draw(st.sampled_from(["tool_calls" if calls else "stop", "length", "content_filter"]))
    return completion(message, finish, stop_reason=draw(st.none() | st.just("END")))


def _ask(wired: InProcess, turns: list[Any]) -> Any:
    return wired.client.messages.create(model="tiny", max_tokens=8, messages=turns)


@settings(deadline=None, max_examples=150)
@given(response=answers() | answers(cut=True), cuts=CUTS)
def test_a_stream_gives_what_the_whole_answer_is(response: Json, cuts: list[int]) -> None:
    wired = InProcess(response, cuts)
    question: list[Any] = [{"role": "user", "content": "?"}]
    with wired.client.messages.stream(model="tiny", max_tokens=8, messages=question) as stream:
        streamed = stream.get_final_message()
    assert streamed.to_dict(exclude_none=True) == _ask(wired, question).to_dict(exclude_none=True)


@settings(deadline=None, max_examples=150)
@given(response=answers(), cuts=CUTS, streamed=st.booleans())
def test_an_answer_that_comes_back_is_the_same_message(response: Json, cuts: list[int], streamed: bool) -> None:
    wired = InProcess(response, cuts)
    turns: list[Any] = [{"role": "user", "content": "?"}]
    if streamed:
        with wired.client.messages.stream(model="tiny", max_tokens=8, messages=turns) as stream:
            answer = stream.get_final_message()
    else:
        answer = _ask(wired, turns)
    _ask(wired, [*turns, {"role": "assistant", "content": answer.content}, {"role": "user", "content": "on"}])
    said = MESSAGES.to_chat(wired.seen[-1])["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert _comparable(said[1]) == _comparable(response["choices"][0]["message"])


def _comparable(message: Json) -> Json:
    """Arguments as the objects that templates render, in the order of their keys; empty thoughts are none."""
    found = {name: value for name, value in message.items() if value or name == "content"}
    for call in found.get("tool_calls") or []:
        call["function"]["arguments"] = [*orjson.loads(call["function"]["arguments"]).items()]
    return found


@settings(deadline=None, max_examples=300)
@given(blocks=st.lists(st.tuples(st.sampled_from(["call", "content", "reasoning"]), TEXTS.filter(bool)), max_size=8))
def test_a_stream_in_any_order_comes_back_as_the_same_message(blocks: list[tuple[str, str]]) -> None:
    """Text after a tool call, thoughts in between: more blocks, but one message."""
    deltas: list[Json] = []
    message: Json = {"role": "assistant", "content": "", "reasoning": "", "tool_calls": []}
    for kind, text in blocks:
        if kind == "call":
            at = len(message["tool_calls"])
            call = {"id": f"c{at}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            message["tool_calls"].append(call)
            deltas.append({"tool_calls": [{"index": at, **call}]})
        else:
            message[kind] += text
            deltas.append({kind: text})
    translator = MESSAGES.translator({"model": "tiny"})
    events = [event for delta in deltas for event in translator.feed({"choices": [{"index": 0, "delta": delta}]})]
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    for event in events:
        if event["type"] == "content_block_delta":
            name = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(
                event["delta"]["type"]
            )
            if name:
                starts[event["index"]][name] += event["delta"][name]
    body: Json = {"messages": [{"role": "assistant", "content": starts}, {"role": "user", "content": "on"}]}
    said = MESSAGES.to_chat(body)["messages"][0]
    message["content"] = message["content"] or (None if message["tool_calls"] else "")
    assert _comparable(said) == _comparable(message)


def test_arguments_of_two_calls_that_arrive_in_turns_keep_to_their_blocks() -> None:
    calls = [
        {"id": f"c{at}", "type": "function", "function": {"name": "f", "arguments": f'{{"a": {at}}}'}} for at in (0, 1)
    ]
    response = completion({"content": None, "tool_calls": calls}, "tool_calls")
    made = chunks(response, [2, 2])
    first = [chunk for chunk in made if _calls(chunk, 0)]
    second = [chunk for chunk in made if _calls(chunk, 1)]
    translator = MESSAGES.translator({})
    buffers: dict[int, str] = {}
    for pair in zip(first, second, strict=True):
        for event in (event for chunk in pair for event in translator.feed(chunk)):
            if event["type"] == "content_block_delta":
                buffers[event["index"]] = buffers.get(event["index"], "") + event["delta"]["partial_json"]
    assert buffers == {0: '{"a": 0}', 1: '{"a": 1}'}


def _calls(chunk: Json, index: int) -> bool:
    return any(
        call["index"] == index for choice in chunk["choices"] for call in choice["delta"].get("tool_calls") or []
    )


@pytest.mark.parametrize("arguments", ["not json", "[1]", '{"a": nothing}', "7"])
def test_arguments_that_are_no_object_come_back_as_they_were(arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    answer = MESSAGES.from_chat({}, completion({"content": None, "tool_calls": [call]}, "tool_calls"))
    back = {"messages": [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "on"}]}
    assert MESSAGES.to_chat(back)["messages"][0]["tool_calls"] == [call]
    assert answer["content"][0]["input"] == {RAW_ARGUMENTS: arguments}


NAMES = st.sampled_from(
    [
        *(
            "type",
            "text",
            "role",
            "content",
            "source",
            "url",
            "data",
            "media_type",
            "input",
            "id",
            "name",
            "tool_use_id",
        ),
        *("messages", "system", "tools", "tool_choice", "input_schema", "function", "tool_calls", "arguments"),
        *("image_url", "response_format", "json_schema", "output_config", "format", "metadata", "stop", "max_tokens"),
    ]
)
WORDS = st.sampled_from(
    [
        *("text", "image", "tool_use", "tool_result", "thinking", "user", "assistant", "system", "tool", "function"),
        *("base64", "url", "image_url", "json_schema", "any", "auto", "https://x/y.png", "data:image/png;base64,AA=="),
    ]
)
SHAPES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)


@settings(deadline=None, max_examples=600)
@given(body=st.dictionaries(NAMES, SHAPES, max_size=8))
def test_no_request_breaks_the_translation(body: Json) -> None:
    """Whatever comes is translated or refused, never an error of ours."""
    for translate in (MESSAGES.to_chat, messages_request):
        try:
            translated = translate(body)
        except RequestError as error:
            refused = error
        else:
            assert isinstance(translated["messages"], list)
            continue
        assert refused.status == 400
        assert refused.param
