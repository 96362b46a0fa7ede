"""Chat completions as Responses that OpenAI's own types accept, what comes back of them, and Responses as chat."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from agentlightning.llm_proxy.dialects.base import Translated
from agentlightning.llm_proxy.dialects.responses import RESPONSES
from agentlightning.types import RequestError

from .responses_peer import Json, as_sent_again, call, completion, messages

TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}}
LOGPROB = {
    "token": "é",
    "logprob": -0.5,
    "bytes": None,
    "top_logprobs": [{"token": "e", "logprob": -1, "bytes": [101]}],
}


def answered(message: Json, finish: str = "stop", key: str = "1a2b", **body: Any) -> tuple[Json, Response]:
    """The Response as it goes out, and as the client reads it."""
    found = RESPONSES.from_chat({"model": "tiny", "input": "q", **body}, completion(message, finish, key))
    return found, Response.model_validate(found, strict=True)


def test_the_interface_is_translated() -> None:
    assert isinstance(RESPONSES, Translated)
    assert (RESPONSES.name, RESPONSES.path, RESPONSES.limits) == ("responses", "/responses", ("max_output_tokens",))


def test_text() -> None:
    _, read = answered({"content": "four"})
    assert (read.id, read.status, read.output_text, read.model) == ("resp_1a2b", "completed", "four", "tiny")
    assert read.created_at == 1700000000
    assert read.usage is not None
    assert (read.usage.input_tokens, read.usage.output_tokens, read.usage.total_tokens) == (7, 5, 12)
    assert read.parallel_tool_calls is True
    assert (read.tools, read.tool_choice, read.temperature, read.incomplete_details) == ([], "auto", 1.0, None)


def test_reasoning_text_and_calls_are_items_in_this_order() -> None:
    calls = [call("c1", arguments='{"a":  1}'), call("c2")]
    _, read = answered({"content": "so", "reasoning_content": "hm", "tool_calls": calls}, "tool_calls", tools=[TOOL])
    assert [item.type for item in read.output] == ["reasoning", "message", "function_call", "function_call"]
    assert [item.id for item in read.output] == ["rs_agl_1a2b", "msg_agl_1a2b", "fc_agl_1a2b_0", "fc_agl_1a2b_1"]
    third: Any = read.output[2]
    assert (third.call_id, third.name, third.arguments, third.status) == ("c1", "look", '{"a":  1}', "completed")


def test_what_the_request_said_is_repeated() -> None:
    said = {
        "instructions": "be brief",
        "temperature": 0.25,
        "top_p": 0.5,
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "look"},
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "reasoning": {"effort": "low"},
        "user": "u",
    }
    found, _ = answered({"content": "x"}, **said)
    tool = {**TOOL, "strict": None}
    assert {name: found[name] for name in said} == {
        **said,
        "tools": [tool],
        "reasoning": {"effort": "low", "summary": None},
    }


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter"), ("abort", None)]
)
def test_an_answer_that_was_cut_is_incomplete(finish: str, reason: str | None) -> None:
    _, read = answered({"content": "fo"}, finish)
    assert (read.status, read.incomplete_details is not None) == ("incomplete", True)
    assert read.incomplete_details is not None
    assert read.incomplete_details.reason == reason
    last: Any = read.output[-1]
    assert last.status == "incomplete"


def test_refusals_and_empty_answers_are_messages() -> None:
    _, refused = answered({"content": None, "refusal": "no"})
    _, empty = answered({"content": None})
    contents: list[Any] = [item.content for item in (*refused.output, *empty.output)]
    assert [[part.to_dict() for part in parts] for parts in contents] == [
        [{"type": "refusal", "refusal": "no"}],
        [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}],
    ]


def test_logprobs_where_they_were_asked_for() -> None:
    answer = completion({"content": "é"}, logprobs=[LOGPROB])
    asked = {"model": "tiny", "input": "q", "include": ["message.output_text.logprobs"]}
    part: Any = Response.model_validate(RESPONSES.from_chat(asked, answer), strict=True).output[0]
    (found,) = part.content[0].logprobs
    assert (found.token, found.logprob, found.bytes, found.top_logprobs[0].token) == ("é", -0.5, [], "e")
    unasked = RESPONSES.from_chat({"model": "tiny", "input": "q"}, answer)
    assert unasked["output"][0]["content"][0]["logprobs"] == []


def test_ids_of_other_servers_are_made_plain() -> None:
    first, second = (answered({"content": "x"}, key=key)[0]["id"] for key in ("a_b/c", "a_b/d"))
    assert first != second
    assert first.removeprefix("resp_").isalnum()
    ids = {RESPONSES.from_chat({"input": "q"}, {**completion({}), "id": None})["id"] for _ in range(2)}
    assert len(ids) == 2


def test_a_call_without_an_id_gets_one() -> None:
    found, _ = answered({"tool_calls": [call("")]})
    assert found["output"][0]["call_id"] == "call_1a2b_0"


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [5]}, {"choices": [{"message": "hi"}]}])
def test_malformed_answers_are_the_backends_fault(answer: Json) -> None:
    for read in (lambda: RESPONSES.from_chat({"input": "q"}, answer), lambda: RESPONSES.translator({}).end(answer)):
        with pytest.raises(RequestError) as caught:
            read()
        assert caught.value.status == 502


@st.composite
def conversations(draw: st.DrawFn) -> list[Json]:
    """Answers, and between them what their calls gave, a question, or nothing at all."""
    chat: list[Json] = [{"role": "user", "content": "q"}]
    for turn in range(draw(st.integers(1, 4))):
        message = {"role": "assistant", **draw(messages(tag=f"{turn}x"))}
        chat.append(message)
        calls = message.get("tool_calls") or []
        chat += [{"role": "tool", "tool_call_id": one["id"], "content": "seen"} for one in calls]
        if draw(st.booleans()):
            chat.append({"role": "user", "content": "and?"})
    return chat


@settings(max_examples=200)
@given(conversations(), st.booleans())
def test_answers_sent_again_are_the_messages_that_they_were(chat: list[Json], keep_ids: bool) -> None:
    """The way of every agent: `input += response.output`. Without ids, answers with nothing between may merge."""
    items: list[Json] = []
    for at, message in enumerate(chat):
        if message["role"] == "assistant":
            output = answered(message, key=f"turn-{at}")[1].output
            items += [item.to_dict(mode="json") for item in output]
        elif message["role"] == "tool":
            items.append({"type": "function_call_output", "call_id": message["tool_call_id"], "output": "seen"})
        else:
            items.append(message)
    if not keep_ids:
        items = [{name: value for name, value in item.items() if name != "id"} for item in items]
    said = RESPONSES.to_chat({"model": "tiny", "input": items})["messages"]
    roles = [message["role"] for message in chat]
    apart = ("assistant", "assistant") not in itertools.pairwise(roles)
    if keep_ids or apart:
        assert said == [as_sent_again(one) if one["role"] == "assistant" else one for one in chat]


@given(messages(), st.randoms(use_true_random=False))
def test_outputs_between_the_calls_of_one_answer(message: Json, chance: random.Random) -> None:
    """Some agents put each output right behind its call, before the answer's next call."""
    items: list[Json] = []
    for item in answered(message)[0]["output"]:
        items.append(item)
        if item["type"] == "function_call" and chance.random() < 0.7:
            items.append({"type": "function_call_output", "call_id": item["call_id"], "output": "seen"})
    said = RESPONSES.to_chat({"model": "tiny", "input": items})["messages"]
    assert said[0] == as_sent_again(message)
    assert {one["role"] for one in said[1:]} <= {"tool"}


@given(messages())
def test_a_response_read_as_chat_is_the_completion_again(message: Json) -> None:
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    found = RESPONSES.answer_to_chat(answered(message, finish)[0])
    (choice,) = found["choices"]
    expected = as_sent_again(message)
    assert {**expected, "content": expected["content"] or ""} == {
        **choice["message"],
        "content": choice["message"]["content"] or "",
        **({"reasoning_content": choice["message"]["reasoning"]} if "reasoning" in choice["message"] else {}),
    }
    assert choice["finish_reason"] == finish
    assert {name: found["usage"][name] for name in completion({})["usage"]} == completion({})["usage"]


def test_a_response_of_openai_read_as_chat() -> None:
    """An answer as OpenAI documents it: summed-up reasoning, a search, an annotated text, and a cut."""
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    }
    response = {
        "id": "resp_67cb71b351908190",
        "object": "response",
        "created_at": 1741408624,
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "model": "gpt-5",
        "output": [
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "I search."}]},
            search,
            {
                "type": "message",
                "id": "msg_1",
                "status": "incomplete",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "It is", "annotations": [], "logprobs": [LOGPROB]}],
            },
            {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "sql", "input": "select 1"},
        ],
        "usage": {
            "input_tokens": 37,
            "input_tokens_details": {"cached_tokens": 5},
            "output_tokens": 11,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 48,
        },
    }
    found = RESPONSES.answer_to_chat(response)
    assert found["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "It is",
                "reasoning": "I search.",
                "tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}],
                "output_items": [search],
            },
            "logprobs": {"content": [LOGPROB]},
            "finish_reason": "length",
        }
    ]
    assert found["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    failed = {**response, "status": "failed", "output": [], "incomplete_details": None}
    assert RESPONSES.answer_to_chat(failed)["choices"][0]["finish_reason"] == "error"


@pytest.mark.parametrize("response", [{}, {"output": ""}, {"output": ["text"]}, {"output": [], "created_at": "now"}])
def test_malformed_responses_are_the_backends_fault(response: Json) -> None:
    with pytest.raises(RequestError) as caught:
        RESPONSES.answer_to_chat(response)
    assert caught.value.status == 502
