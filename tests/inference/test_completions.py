"""OpenAI's plain completions: prompts in every form, legacy log-probs, whole and streamed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.inference import ChatService, Engine, Piece
from agentlightning.inference.completion_answer import CompletionAnswer
from agentlightning.inference.completion_request import parse_completion_request
from agentlightning.types import ChatReply, RequestError

from .assembled import Json, completion_from
from .test_chat_stream import TOKENIZER, VOCABULARY, generation, generations, without

IDS = [5, 6, 7]


@pytest.fixture
def service(start: Callable[..., Engine], model: Any, endless: Any) -> ChatService:
    return ChatService(start(model), endless, "tiny")


async def streamed(service: ChatService, body: Json) -> tuple[list[Json], ChatReply]:
    *chunks, reply = [item async for item in service.stream("completions", body | {"stream": True})]
    assert isinstance(reply, ChatReply)
    return chunks, reply


async def test_a_prompt_goes_on(service: ChatService, endless: Any) -> None:
    reply = await service.call("completions", {"model": "tiny", "prompt": "What is", "seed": 1})
    assert (reply.response["object"], reply.response["model"]) == ("text_completion", "tiny")
    (choice,) = reply.response["choices"]
    (call,) = reply.calls
    assert call.prompt_ids.tolist() == endless.encode("What is")
    assert len(call.response_ids) == 16, "OpenAI's default"
    assert choice == {
        "index": 0,
        "text": endless.decode(call.response_ids, skip_special_tokens=False),
        "logprobs": None,
        "finish_reason": "length",
    }
    usage = {"prompt_tokens": len(call.prompt_ids), "completion_tokens": 16, "total_tokens": len(call.prompt_ids) + 16}
    assert reply.response["usage"] == usage


async def test_prompts_in_every_form_get_the_tokens_that_they_get_alone(service: ChatService, endless: Any) -> None:
    texts = ["What is", "3 plus"]
    ids = [endless.encode(text) for text in texts]
    body = {"seed": 2, "n": 2, "max_tokens": 6, "return_token_ids": True}
    alone = [(await service.call("completions", body | {"prompt": text})).response["choices"] for text in texts]
    expected = [choice["token_ids"] for choices in alone for choice in choices]
    assert len({tuple(tokens) for tokens in expected}) == 4
    for prompt in (texts, ids):
        response = (await service.call("completions", body | {"prompt": prompt})).response
        assert [choice["token_ids"] for choice in response["choices"]] == expected
        assert [choice["index"] for choice in response["choices"]] == [0, 1, 2, 3]
        assert [choice["prompt_token_ids"] for choice in response["choices"]] == [ids[0], ids[0], ids[1], ids[1]]
        assert response["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[1])
    single = (await service.call("completions", body | {"prompt": ids[0]})).response
    assert [choice["token_ids"] for choice in single["choices"]] == expected[:2]


async def test_logprobs_in_the_legacy_form(service: ChatService, endless: Any) -> None:
    body = {"prompt": IDS, "seed": 3, "max_tokens": 8}
    chosen = (await service.call("completions", body | {"logprobs": 0})).response["choices"][0]["logprobs"]
    assert chosen["top_logprobs"] is None
    reply = await service.call("completions", body | {"logprobs": 2})
    (choice,), (call,) = reply.response["choices"], reply.calls
    told = choice["logprobs"]
    assert list(told) == ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
    assert told["tokens"] == chosen["tokens"] == [endless.decode([token]) for token in call.response_ids]
    assert told["token_logprobs"] == chosen["token_logprobs"] == call.logprobs.tolist()
    assert told["text_offset"] == [len("".join(told["tokens"][:at])) for at in range(8)]
    for token, logprob, best in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        assert best[token] >= logprob, "the sampled token is among them"
        assert 2 <= len(best) <= 3
        assert max(best.values()) >= logprob


async def test_the_stream_is_what_the_call_answers(service: ChatService) -> None:
    common = {"prompt": [IDS, [8, 9]], "seed": 4, "n": 2, "max_tokens": 10}
    for extra in (
        {},
        {"stop": ["e"]},
        {"logprobs": 0},
        {"logprobs": 2, "return_token_ids": True, "stream_options": {"include_usage": True}},
    ):
        whole = await service.call("completions", common | extra)
        chunks, reply = await streamed(service, common | extra)
        used = () if "stream_options" in extra else ("usage",)
        assert completion_from(chunks) == without(reply.response, *used)
        assert without(reply.response, "id", "created") == without(whole.response, "id", "created")
        for one, other in zip(reply.calls, whole.calls, strict=True):
            assert one.to_bytes() == other.to_bytes()
        assert chunks[0]["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [5, "x"]}, "prompt"),
        ({"prompt": [[5], 5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": [352]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": [5] * 512}, "prompt"),
        ({"prompt": ["x"] * 100, "n": 100}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"tools": [5]}, "tools"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"stream": 1}, "stream"),
        ({"model": "gpt-4o"}, "model"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(service: ChatService, fields: Json, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        await service.call("completions", {"prompt": IDS} | fields)
    assert caught.value.param == param
    assert caught.value.status == (404 if param == "model" else 400)


async def test_values_that_ask_for_nothing_are_served(service: ChatService) -> None:
    body = {
        "prompt": "x",
        "max_tokens": 2,
        "echo": False,
        "suffix": None,
        "best_of": 2,
        "n": 2,
        "user": "u",
        "top_p": 1,
    }
    assert len((await service.call("completions", body | {"logit_bias": {}, "presence_penalty": 0})).calls) == 2


async def test_other_dialects_are_not_spoken(service: ChatService) -> None:
    assert service.speaks == {"chat", "completions"}
    with pytest.raises(RequestError, match="`responses`"):
        await service.call("responses", {"input": "x"})


@settings(deadline=None, max_examples=200)
@given(said=st.lists(generations(), min_size=1, max_size=3), top=st.sampled_from([None, 0, 2]), data=st.data())
def test_pieces_add_up_to_the_whole(said: list[tuple[list[int], str]], top: int | None, data: st.DataObject) -> None:
    whole = [generation(*one) for one in said]
    body = {"prompt": [[1, 2]] * len(whole), "logprobs": top, "return_token_ids": data.draw(st.booleans())}
    body |= {"stop": data.draw(st.lists(st.sampled_from(["stop", "€", "\n"]), max_size=2))}
    request = parse_completion_request(body)
    answers = [
        CompletionAnswer("tiny", VOCABULARY, request, [(one.prompt_ids, request.params) for one in whole]) for _ in "ab"
    ]
    chunks: list[Json] = []
    for which, one in enumerate(whole):
        full = Piece.whole(one)
        full.likeliest = full.likeliest if top else []
        answers[0].feed(which, full)
        answers[0].finish(which, one)
        size = len(one.token_ids)
        for a, b in itertools.pairwise([0, *sorted(data.draw(st.sets(st.integers(1, size)))), size]):
            if a < b:
                piece = Piece(3, full.token_ids[a:b], full.logprobs[a:b], full.likeliest[a:b])
                chunks += answers[1].feed(which, piece)
        chunks += answers[1].finish(which, one)
    response = answers[1].response()
    assert without(response, "id", "created") == without(answers[0].response(), "id", "created")
    assert completion_from(chunks) == without(response, "usage")
    ids = [token for token in said[0][0] if token != TOKENIZER.eos_token_id]
    if not request.params.stop:
        assert response["choices"][0]["text"] == TOKENIZER.decode(np.array(ids, np.int32), skip_special_tokens=False)
