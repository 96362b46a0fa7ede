"""Streamed Responses: every event by OpenAI's own types, and their client's accumulation, over real HTTP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, get_args

import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel

from agentlightning.llm_proxy.dialects.responses import RESPONSES
from agentlightning.types import RequestError

from .responses_peer import Json, Peer, call, chunk, client_of, completion, deltas, messages, serving

QUESTION = {"model": "tiny", "input": "q", "tools": [{"type": "function", "name": "look"}]}
EVENT_TYPES: dict[str, type[BaseModel]] = {
    get_args(event.model_fields["type"].annotation)[0]: event for event in get_args(get_args(ResponseStreamEvent)[0])
}
TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}


@pytest.fixture(scope="module")
def peer() -> Peer:
    return Peer()


@pytest.fixture(scope="module")
def client(peer: Peer) -> Iterator[openai.OpenAI]:
    with serving(peer) as url, client_of(url) as found:
        yield found


def streamed(message: Json, pieces: list[Json], finish: str = "stop", **body: Any) -> list[Json]:
    """All events of an answer, each accepted by its type in the client."""
    translator = RESPONSES.translator({**QUESTION, **body})
    events = [event for piece in pieces for event in translator.feed(chunk(piece))]
    events += translator.feed(chunk({}, finish=finish))
    events += translator.end(completion(message, finish))
    for number, event in enumerate(events):
        read = EVENT_TYPES[event["type"]].model_validate(event, strict=True)
        # OpenAI's reference has a `name` there that this release of its client has not.
        assert set(read.model_extra or ()) <= {"name"}
        assert event["sequence_number"] == number
    return events


def kinds(events: list[Json]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_the_events_of_text_in_order() -> None:
    events = streamed({"content": "four"}, [{"role": "assistant", "content": ""}, {"content": "fo"}, {"content": "ur"}])
    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert {event["item_id"] for event in events if "item_id" in event} == {"msg_agl_1a2b"}
    assert {event["response"]["id"] for event in events if "response" in event} == {"resp_1a2b"}


def test_the_events_of_reasoning_text_and_calls_in_order() -> None:
    message = {"reasoning": "hm", "content": "so", "tool_calls": [call("c1", arguments='{"a": 1}'), call("c2")]}
    events = streamed(message, deltas(message, 5), "tool_calls")
    assert kinds(events) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("output_item.added", "function_call_arguments.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("function_call_arguments.done", "output_item.done"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    arguments = [event for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert [event["output_index"] for event in arguments] == [2, 2, 3]


def test_deltas_go_out_with_their_chunk() -> None:
    translator = RESPONSES.translator(QUESTION)
    translator.feed(chunk({"content": "a"}))
    for text in ("b", "c"):
        (event,) = translator.feed(chunk({"content": text}))
        assert (event["type"], event["delta"]) == ("response.output_text.delta", text)


def test_an_answer_that_was_cut_ends_incomplete() -> None:
    events = streamed({"content": "fo"}, [{"content": "fo"}], "length")
    assert kinds(events)[-2:] == ["output_item.done", "incomplete"]
    assert events[-2]["item"]["status"] == "incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_logprobs_ride_on_their_deltas() -> None:
    translator = RESPONSES.translator({**QUESTION, "top_logprobs": 1})
    delta = translator.feed(chunk({"content": "a"}, logprobs=[TOKEN]))[-1]
    events = translator.end(completion({"content": "a"}, logprobs=[TOKEN]))
    done = next(event for event in events if event["type"] == "response.output_text.done")
    assert delta["logprobs"] == done["logprobs"] == [TOKEN]
    unasked = RESPONSES.translator(QUESTION).feed(chunk({"content": "a"}, logprobs=[TOKEN]))[-1]
    assert unasked["logprobs"] == []


def test_a_call_waits_for_its_name_and_keeps_its_arguments() -> None:
    message = {"tool_calls": [call("c1", arguments='{"a": 1}')]}
    pieces: list[Json] = [
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": ": 1"}}]},
        {"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": "}"}}]},
    ]
    events = streamed(message, pieces)
    deltas_ = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert deltas_ == ['{"a": 1', "}"]


def test_other_choices_and_chunks_without_any_are_left_out() -> None:
    translator = RESPONSES.translator(QUESTION)
    translator.feed(chunk({"content": "a"}))
    other = chunk({"content": "b"})
    other["choices"][0]["index"] = 1
    assert translator.feed(other) == []
    assert translator.feed({"id": "chatcmpl-1a2b", "choices": [], "usage": {"prompt_tokens": 1}}) == []


@settings(max_examples=60, deadline=None)
@given(messages(), st.integers(1, 6), st.sampled_from(["stop", "length"]))
def test_the_clients_accumulation_is_the_whole_answer(
    peer: Peer, client: openai.OpenAI, message: Json, size: int, finish: str
) -> None:
    whole = completion(message, finish)
    peer.script.append((whole, [chunk(delta) for delta in [*deltas(message, size), {}]]))
    with client.responses.stream(**QUESTION) as stream:
        events: list[Any] = list(stream)
        final = events[-1].response if finish == "length" else stream.get_final_response()
    assert without_parsed(final.to_dict(mode="json")) == RESPONSES.from_chat({**QUESTION, "stream": True}, whole)
    assert [event.item.id for event in events if event.type == "response.output_item.done"] == [
        item.id for item in final.output
    ]
    # `snapshot` is what the client itself put together from the deltas.
    said = {event.output_index: event.snapshot for event in events if hasattr(event, "snapshot")}
    for at, item in enumerate(final.output):
        if item.type == "function_call":
            assert said.get(at, "") == item.arguments
        elif item.type == "message" and item.content[0].type == "output_text":
            assert said.get(at, "") == item.content[0].text
        elif item.type == "reasoning":
            thought = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
            assert "".join(thought) == item.content[0].text


def without_parsed(value: Any) -> Any:
    """A Response without what `responses.stream` adds to it."""
    if isinstance(value, list):
        return [without_parsed(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: without_parsed(item) for name, item in value.items() if name not in ("parsed", "parsed_arguments")}


@given(messages(), st.integers(1, 6), st.randoms(use_true_random=False), st.floats(0, 1))
def test_pieces_in_any_order_are_all_there(message: Json, size: int, chance: random.Random, arrived: float) -> None:
    """Pieces of different items mixed, and only some of them streamed: the rest comes before the end."""
    lanes: dict[str, list[Json]] = {}
    for delta in deltas(message, size)[1:]:
        (field, value), *_ = delta.items()
        lanes.setdefault(f"{field}{value[0]['index'] if field == 'tool_calls' else ''}", []).append(delta)
    calls_begin = [lane.pop(0) for name, lane in lanes.items() if name.startswith("tool_calls")]
    order = [name for name, lane in lanes.items() for _ in lane]
    chance.shuffle(order)
    pieces = [*calls_begin, *(lanes[name].pop(0) for name in order)]
    events = streamed(message, pieces[: round(len(pieces) * arrived)])
    whole = RESPONSES.from_chat(QUESTION, completion(message))
    output = events[-1]["response"]["output"]
    assert sorted(map(canonical, output)) == sorted(map(canonical, whole["output"]))
    for index, item in enumerate(output):
        for slot, text in slots(item).items():
            sent = [event["delta"] for event in events if event.get("output_index") == index and is_delta(event, slot)]
            assert "".join(sent) == text


def canonical(item: Json) -> bytes:
    parts = sorted(item.get("content") or [], key=lambda part: part["type"])
    return orjson.dumps({**item, "content": parts}, option=orjson.OPT_SORT_KEYS)


def slots(item: Json) -> dict[str, str]:
    if item["type"] == "function_call":
        return {"function_call_arguments": item["arguments"]}
    return {part["type"]: part.get("refusal") or part.get("text") or "" for part in item["content"]}


def is_delta(event: Json, slot: str) -> bool:
    return event["type"] == f"response.{slot}.delta"


async def test_the_async_client_streams_and_reads_structured_output(peer: Peer) -> None:
    class Sum(BaseModel):
        value: int

    message = {"content": '{"value": 4}'}
    peer.script.append((completion(message), [chunk(delta) for delta in deltas(message, 3)]))
    with serving(peer) as url:
        client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        async with client, client.responses.stream(model="tiny", input="q", text_format=Sum) as stream:
            final = await stream.get_final_response()
    assert final.output_parsed == Sum(value=4)
    assert peer.asked[-1]["response_format"]["json_schema"]["name"] == "Sum"
    assert peer.asked[-1]["stream"] is True


def test_a_stream_that_breaks_raises_in_the_client(peer: Peer, client: openai.OpenAI) -> None:
    peer.script.append((completion({"content": "a"}), [chunk({"content": "a"})]))
    peer.torn = RequestError("the backend went away", status=502)
    try:
        with (
            pytest.raises(openai.APIError, match="the backend went away"),
            client.responses.stream(**QUESTION) as stream,
        ):
            stream.until_done()
    finally:
        peer.torn = None


def test_error_events_are_those_of_the_api() -> None:
    error = RequestError("no such model", status=404, param="model", code="model_not_found")
    head, data = RESPONSES.frame(RESPONSES.error(error)).decode().removesuffix("\n\n").split("\n")
    event = orjson.loads(data.removeprefix("data: "))
    assert head == "event: error"
    read: Any = EVENT_TYPES["error"].model_validate(event, strict=True)
    assert (read.message, read.code, read.param) == ("no such model", "model_not_found", "model")
    assert event["error"]["type"] == "invalid_request_error"


def test_refusals_reach_the_client_with_their_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="q", previous_response_id="resp_1")
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "unsupported_parameter")


def test_frames_name_their_event() -> None:
    event = {"type": "response.output_text.delta", "delta": "é\n"}
    assert RESPONSES.frame(event) == (
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"\xc3\xa9\\n"}\n\n'
    )
