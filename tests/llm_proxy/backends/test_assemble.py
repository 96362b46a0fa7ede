"""Whole answers put together from any stream of deltas, and taken apart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.llm_proxy.backends.assemble import Assembler, split
from agentlightning.llm_proxy.backends.tokens import Sampled, token_calls
from agentlightning.types import RequestError

from .endpoint import vllm_chat, vllm_chat_chunks, vllm_completion, vllm_completion_chunks

Json = dict[str, Any]
TOP: Json = {"id": "chatcmpl-1", "created": 1, "model": "m", "system_fingerprint": None}
TEXT = st.text(min_size=1, max_size=12)
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=8)
SAMPLED = Sampled("agent", 1.0, True, 5)


@st.composite
def messages(draw: st.DrawFn) -> Json:
    message: Json = {"role": "assistant", "content": draw(st.none() | TEXT)}
    for field in draw(st.sets(st.sampled_from(["reasoning", "reasoning_content", "refusal"]))):
        message[field] = draw(TEXT)
    calls = [
        {"id": f"call_{at}", "type": "function", "function": {"name": draw(TEXT), "arguments": draw(TEXT)}}
        for at in range(draw(st.integers(0, 3)))
    ]
    return message | ({"tool_calls": calls} if calls else {})


@st.composite
def answers(draw: st.DrawFn) -> Json:
    choices: list[Json] = []
    for index in range(draw(st.integers(1, 3))):
        ids = draw(IDS)
        content = [{"token": f"t{one}", "logprob": -one / 2**31, "top_logprobs": []} for one in ids]
        choice: Json = {"index": index, "message": draw(messages())}
        choice |= {"logprobs": {"content": content} if ids else None, "token_ids": ids, "finish_reason": "stop"}
        choices.append(choice)
    usage = {"prompt_tokens": 2, "completion_tokens": sum(len(choice["token_ids"]) for choice in choices)}
    return {**TOP, "object": "chat.completion", "choices": choices, "usage": usage, "prompt_token_ids": [1, 2]}


def pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def call_deltas(draw: st.DrawFn, index: int, call: Json) -> list[Json]:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    repeated = draw(st.booleans())  # some servers send the id and the name with every piece
    deltas: list[Json] = [{"index": index, **call, "function": {"name": name, "arguments": ""}}]
    for piece in pieces(draw, arguments):
        again = {"id": call["id"], "type": "function"} if repeated else {}
        deltas.append(
            {"index": index, **again, "function": {"arguments": piece, **({"name": name} if repeated else {})}}
        )
    return [{"tool_calls": [delta]} for delta in deltas]


def deltas_of(draw: st.DrawFn, message: Json) -> list[Json]:
    deltas: list[Json] = []
    for field, value in message.items():
        if field == "tool_calls":
            deltas += [delta for at, call in enumerate(value) for delta in call_deltas(draw, at, call)]
        elif field != "role" and value is not None:
            deltas += [{field: piece} for piece in pieces(draw, value)]
    return [{"role": "assistant"}, *deltas]


@st.composite
def streamed(draw: st.DrawFn) -> tuple[Json, list[Json]]:
    """A whole answer and one of the streams that it could have come in."""
    whole = draw(answers())
    tracks: list[list[Json]] = []
    for choice in whole["choices"]:
        parts: list[Json] = [{"delta": delta} for delta in deltas_of(draw, choice["message"])]
        ids, at = choice["token_ids"], 0
        for part in parts:
            size = draw(st.integers(0, len(ids) - at)) if part is not parts[-1] else len(ids) - at
            part["token_ids"] = ids[at : at + size]
            part["logprobs"] = {"content": choice["logprobs"]["content"][at : at + size]} if size else None
            at += size
        parts.append({"delta": {}, "finish_reason": choice["finish_reason"]})
        tracks.append([{"index": choice["index"], "finish_reason": None, **part} for part in parts])
    chunks: list[Json] = []
    while any(tracks):
        track = draw(st.sampled_from([track for track in tracks if track]))
        chunks.append({**TOP, "object": "chat.completion.chunk", "choices": [track.pop(0)], "usage": None})
    chunks[0]["prompt_token_ids"] = whole["prompt_token_ids"]
    chunks.append({**TOP, "object": "chat.completion.chunk", "choices": [], "usage": whole["usage"]})
    return whole, chunks


def assembled(chunks: list[Json], dialect: Any = "chat") -> Json:
    assembler = Assembler("http://there", dialect)
    for chunk in chunks:
        assembler.feed(chunk)
    return assembler.response()


@given(streamed())
def test_any_stream_of_deltas_gives_the_whole_answer_and_its_tokens(case: tuple[Json, list[Json]]) -> None:
    whole, chunks = case
    before = repr(chunks)
    found = assembled(chunks)
    assert found == whole
    assert repr(chunks) == before
    for one, other in zip(token_calls("x", found, SAMPLED)[0], token_calls("x", whole, SAMPLED)[0], strict=True):
        assert one.to_bytes() == other.to_bytes()


@given(answers())
def test_an_answer_taken_apart_and_put_together_is_the_same(whole: Json) -> None:
    assert assembled(list(split(whole, usage=True))) == whole
    without = {key: value for key, value in whole.items() if key != "usage"}
    assert assembled(list(split(whole, usage=False))) == without


def test_a_completion_taken_apart_and_put_together_is_the_same() -> None:
    whole = vllm_completion({"model": "m", "logprobs": 1, "return_token_ids": True})
    assert assembled(list(split(whole, usage=True)), "completions") == whole


def test_the_chunks_of_vllm_give_what_it_answers_whole() -> None:
    body: Json = {"model": "m", "logprobs": 1, "return_token_ids": True, "return_weight_versions": True}
    body |= {"stream_options": {"include_usage": True}}
    spans = [{"version": "7", "start": 0, "end": 3}]
    differs = ("id", "created", "system_fingerprint")
    for found, whole in (
        (assembled(vllm_chat_chunks(body, [[1, 2, 3], [4]], spans)), vllm_chat(body, [[1, 2, 3], [4]], spans)),
        (assembled(vllm_completion_chunks(body), "completions"), vllm_completion(body)),
    ):
        one, other = ({k: v for k, v in each.items() if k not in differs} for each in (found, whole))
        assert _without_nulls(one) == _without_nulls(other)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def chunk(delta: Json, index: int = 0, finish: str | None = None) -> Json:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def test_tool_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {"id": "b", "function": {"name": "g", "arguments": "{"}},
        {"id": "b", "function": {"arguments": "}"}},
    ]
    found = assembled([*(chunk({"tool_calls": [call]}) for call in calls), chunk({}, finish="tool_calls")])
    assert found["choices"][0]["message"]["tool_calls"] == [
        {"id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_other_parts_of_a_message_grow_too() -> None:
    details = [{"type": "reasoning.text", "text": "a"}, {"type": "reasoning.text", "text": "b"}]
    found = assembled(
        [
            chunk({"audio": {"id": "x", "data": "AA"}, "reasoning_details": details[:1], "extra": 1}),
            chunk({"audio": {"data": "BB", "expires_at": 3}, "reasoning_details": details[1:], "extra": 2}),
            chunk({}, finish="stop"),
        ]
    )
    message = found["choices"][0]["message"]
    assert message["audio"] == {"id": "x", "data": "AABB", "expires_at": 3}
    assert (message["reasoning_details"], message["extra"]) == (details, 2)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], "without an answer"),
        ([chunk({"content": "x"})], "choice 0 has no `finish_reason`"),
        ([chunk({}, 0, "stop"), chunk({"content": "x"}, 1)], "choice 1 has no `finish_reason`"),
        ([{"choices": 3}], "malformed chunk"),
        ([{"choices": ["x"]}], "malformed chunk"),
        ([{"choices": [{"delta": {}}]}], "malformed chunk"),
        ([{"choices": [{"index": "0", "delta": {}}]}], "malformed chunk"),
        ([chunk(3)], "malformed chunk"),  # type: ignore[arg-type]
        ([chunk({"tool_calls": [3]})], "malformed chunk"),
    ],
)
def test_what_is_no_stream_of_an_answer_is_told(chunks: list[Json], expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        assembled(chunks)
    assert caught.value.status == 502


LEAVES = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "stop"])
NAMES = st.sampled_from(
    ["choices", "index", "delta", "text", "logprobs", "token_ids", "tool_calls", "id", "function", "arguments", "usage"]
)
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(st.dictionaries(NAMES, ANY, max_size=4).map(lambda part: {"index": 0, **part}), max_size=2)}
)


@given(chunks=st.lists(CHUNKS | st.dictionaries(NAMES, ANY, max_size=4), max_size=6))
def test_any_json_is_an_answer_or_a_request_error(chunks: list[Json]) -> None:
    status = 200
    try:
        found = assembled([*chunks, chunk({}, finish="stop")])
    except RequestError as error:
        found, status = {"choices": "none"}, error.status
    assert status in (200, 502)
    assert found["choices"]


def test_deep_nesting_is_no_trouble() -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = {"a": deep}
    found = assembled([chunk({"extra": deep}), chunk({"extra": deep}, finish="stop")])
    assert found["choices"][0]["finish_reason"] == "stop"


def whole(**changes: Any) -> Json:
    body = {"model": "m", "return_token_ids": True, "logprobs": True}
    answer = vllm_chat(body, [[7, 2]])
    answer["choices"][0] |= changes
    return answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (whole(token_ids=[7, 2.5]), "malformed tokens"),
        (whole(token_ids=[7, 2**40]), "malformed tokens"),
        (whole(token_ids=[7, -1]), "negative value"),
        (whole(token_ids="ab"), "malformed tokens"),
        (whole(token_ids=7), "malformed tokens"),
        (whole() | {"prompt_token_ids": {"a": 1}}, "malformed tokens"),
        (whole(logprobs={"content": [{"logprob": -1.0}]}), "2 token ids but 1 log-probs"),
        (whole(logprobs={"content": [{"x": 1}, {"x": 1}]}), "malformed tokens"),
        (whole(logprobs={"content": [{"logprob": None}, {"logprob": -1}]}), "malformed tokens"),
        (whole(logprobs=[1, 2]), "malformed tokens"),
        (whole(weight_versions=3), "malformed tokens"),
        (whole(weight_versions=[{"start": 0}]), "malformed tokens"),
        (whole(token_ids=[7], logprobs=None), "1 token ids but `usage.completion_tokens` is 2"),
        (whole(token_ids=[7, 2, 2], logprobs=None), "3 token ids but `usage.completion_tokens` is 2"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(answer: Json, expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        token_calls("http://there", answer, SAMPLED)
    assert (caught.value.status, "http://there" in caught.value.message) == (502, True)


@pytest.mark.parametrize(
    ("versions", "version", "mixed"),
    [
        (None, 5, 0),
        ([], 5, 0),
        (["8"], 8, 0),
        (["8", "9"], 8, 1),
        (["10", "9", "10"], 9, 1),
        (["8", "8"], 8, 0),
        (["default"], 5, 0),
        (["8", "default"], 5, 0),
        ([8], 8, 0),
    ],
)
def test_the_version_of_the_weights_is_the_answers_own_or_the_given_one(
    versions: list[Any] | None, version: int, mixed: int
) -> None:
    spans = None if versions is None else [{"version": each, "start": 0, "end": 1} for each in versions]
    calls, found = token_calls("x", whole(weight_versions=spans), SAMPLED)
    assert ([call.weights_version for call in calls], found) == ([version], mixed)


def test_an_echoed_prompt_is_left_out_of_the_logprobs() -> None:
    answer = vllm_completion({"model": "m", "return_token_ids": True, "logprobs": 1})
    answer["choices"][0]["logprobs"]["token_logprobs"] = [None, -9.0, -8.0, -1.0, -2.0, -3.0]
    (call,) = token_calls("x", answer, Sampled("m", 1.0, True, 0, echo=True))[0]
    assert call.logprobs is not None
    assert call.logprobs.tolist() == [-1.0, -2.0, -3.0]


def test_an_answer_cut_before_its_first_token_has_none() -> None:
    answer = whole(token_ids=[], logprobs=None) | {"usage": None}
    (call,) = token_calls("x", answer, SAMPLED)[0]
    assert (len(call.response_ids), call.logprobs, call.prompt_ids.tolist()) == (0, None, answer["prompt_token_ids"])
