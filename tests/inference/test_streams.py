"""Tokens as they are sampled: the same as without a stream, told once a step, and no longer than somebody listens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
import torch

from agentlightning.inference import Engine, Generation, Piece, SamplingParams
from agentlightning.types import ModelError, RequestError

from .conftest import make_model
from .test_engine import answers, prompts, wait_until

Start = Callable[..., Engine]
Requests = list[tuple[Any, SamplingParams]]


async def read(engine: Engine, requests: Requests) -> tuple[list[Piece], list[Generation]]:
    """The pieces of each request joined, and its end."""
    pieces, ends = [Piece(-1) for _ in requests], dict[int, Generation]()
    async for which, item in engine.stream(requests):
        assert which not in ends, "nothing comes after the end"
        if isinstance(item, Generation):
            ends[which] = item
            continue
        joined = pieces[which]
        joined.weights_version = item.weights_version
        joined.token_ids += item.token_ids
        joined.logprobs += item.logprobs
        joined.likeliest += item.likeliest
    return pieces, [ends[which] for which in range(len(requests))]


def some_requests(count: int, **changes: Any) -> Requests:
    return [
        (prompt, SamplingParams(**{"max_tokens": 3 + at, "seed": at, "top_p": (1.0, 0.9)[at % 2]} | changes))
        for at, prompt in enumerate(prompts(count))
    ]


async def test_a_stream_gives_the_tokens_that_submit_gives(start: Start, model: Any) -> None:
    requests = some_requests(12)
    expected = await asyncio.to_thread(answers, start(model, max_slots=5), requests)
    engine = start(model, max_slots=5)
    engine.set_version(3)
    pieces, ends = await read(engine, requests)
    for piece, end, same in zip(pieces, ends, expected, strict=True):
        assert piece.token_ids == end.token_ids.tolist() == same.token_ids.tolist()
        assert piece.logprobs == end.logprobs.tolist() == same.logprobs.tolist()
        assert (end.finish_reason, end.prompt_ids.tolist()) == (same.finish_reason, same.prompt_ids.tolist())
        assert piece.weights_version == end.weights_version == 3


async def test_the_likeliest_tokens_are_those_of_a_fresh_forward(start: Start, model: Any) -> None:
    engine = start(model, max_prefill_tokens=7)
    asked = [(5, 0.7), (0, 1.0), (2, 0.0)]
    requests = [
        (prompt, SamplingParams(max_tokens=6, seed=1, top_logprobs=count, temperature=temperature))
        for prompt, (count, temperature) in zip(prompts(3), asked, strict=True)
    ]
    pieces, ends = await read(engine, requests)
    for piece, end, (count, temperature) in zip(pieces, ends, asked, strict=True):
        assert piece.likeliest == list(end.likeliest)
        assert [len(best) for best in end.likeliest] == [count] * (6 if count else 0)
        ids = torch.from_numpy(np.concatenate([end.prompt_ids, end.token_ids])).long()
        logits = model(ids[None], use_cache=False).logits[0, len(end.prompt_ids) - 1 : -1]
        values, tokens = torch.log_softmax(logits / (temperature or 1.0), -1).topk(count)
        assert [[token for token, _ in best] for best in end.likeliest] == (tokens.tolist() if count else [])
        told = [[logprob for _, logprob in best] for best in end.likeliest]
        np.testing.assert_allclose(told, values.detach().numpy() if count else [], atol=1e-5)


async def test_a_step_wakes_the_loop_once(start: Start, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, loop, calls = start(model, max_slots=16), asyncio.get_running_loop(), list[Any]()
    wake = loop.call_soon_threadsafe

    def counted(callback: Any, *args: Any, **settings: Any) -> Any:
        calls.append(callback)
        return wake(callback, *args, **settings)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    pieces, _ = await read(engine, [([5, 6], SamplingParams(max_tokens=20, seed=at)) for at in range(16)])
    assert sum(len(piece.token_ids) for piece in pieces) == 320
    # One for each step, and one for each request that ends.
    assert len(calls) == engine.stats()["steps"] + 16


async def test_without_streams_the_loop_sleeps_until_the_end(
    start: Start, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, loop, calls = start(model), asyncio.get_running_loop(), list[Any]()
    wake = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *args, **kw: (calls.append(args), wake(*args, **kw))[1])
    await engine.generate([5, 6], SamplingParams(max_tokens=30))
    assert len(calls) == 1


async def test_a_slow_reader_gets_larger_pieces(start: Start, model: Any) -> None:
    engine = start(model)
    async with aclosing(engine.stream([([5], SamplingParams(max_tokens=40))])) as items:
        which, first = await anext(items)
        await asyncio.to_thread(wait_until, lambda: engine.stats()["live"] == 0)
        rest = [item async for _, item in items]
    assert which == 0
    assert isinstance(first, Piece)
    sizes = [len(item.token_ids) for item in rest if isinstance(item, Piece)]
    assert sum(sizes) + len(first.token_ids) == 40
    assert len(sizes) <= 2
    assert isinstance(rest[-1], Generation)


async def test_closing_a_stream_cancels_its_requests(start: Start, model: Any) -> None:
    engine = start(model, max_slots=2)
    async with aclosing(engine.stream([([5], SamplingParams(max_tokens=500)) for _ in range(5)])) as items:
        await anext(items)
    await asyncio.to_thread(wait_until, lambda: engine.stats()["live"] + engine.stats()["queued"] == 0)
    assert engine.stats()["tokens"] < 2500
    assert len((await engine.generate([7], SamplingParams(max_tokens=2))).token_ids) == 2


async def test_cancelling_the_reader_cancels_its_requests(start: Start, model: Any) -> None:
    engine = start(model)
    task = asyncio.create_task(read(engine, [([5], SamplingParams(max_tokens=500))]))
    while not engine.stats()["tokens"]:  # noqa: ASYNC110  # the engine's thread has no event of ours
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until, lambda: engine.stats()["live"] == 0)
    assert engine.stats()["tokens"] < 500


async def test_what_cannot_be_served_is_refused_before_anything_is_queued(start: Start, model: Any) -> None:
    engine = start(model)
    with pytest.raises(RequestError, match="empty"):
        await anext(engine.stream([([5], SamplingParams(max_tokens=5)), ([], SamplingParams())]))
    assert engine.stats()["requests"] == engine.stats()["queued"] == 0
    engine.stop()
    with pytest.raises(RequestError, match="not running"):
        await anext(engine.stream([([5], SamplingParams())]))


async def test_a_failure_ends_the_stream_and_its_other_requests(start: Start) -> None:
    model = make_model()
    engine = start(model)
    with engine.updating(), torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    # A token that is no number is not told: nothing comes before the error.
    with pytest.raises(ModelError, match="diverged"):
        await anext(engine.stream([([5], SamplingParams(max_tokens=9)), ([6], SamplingParams(max_tokens=9))]))
    await asyncio.to_thread(wait_until, lambda: engine.stats()["live"] + engine.stats()["queued"] == 0)


async def test_an_engine_that_stops_ends_its_streams(start: Start, model: Any) -> None:
    engine = start(model)

    async def until_stopped() -> None:
        async for _ in engine.stream([([5], SamplingParams(max_tokens=500))]):
            await asyncio.to_thread(engine.stop)

    with pytest.raises(RequestError, match="not running"):
        await until_stopped()


def test_a_loop_that_was_closed_frees_its_requests(start: Start, model: Any) -> None:
    engine = start(model, max_slots=2)

    async def begin() -> Any:
        items = engine.stream([([5], SamplingParams(max_tokens=500))])
        await anext(items)
        return items

    loop = asyncio.new_event_loop()
    kept = loop.run_until_complete(begin())
    loop.close()  # the generator was never closed
    wait_until(lambda: engine.stats()["live"] == 0)
    assert engine.stats()["tokens"] < 500
    assert len(answers(engine, [([7], SamplingParams(max_tokens=2))])[0].token_ids) == 2
    assert kept is not None


def test_streams_of_several_loops_do_not_mix(start: Start, model: Any) -> None:
    engine, got = start(model, max_slots=8), dict[int, list[Piece]]()
    requests = {number: some_requests(4, seed=number) for number in range(3)}

    def work(number: int) -> None:
        got[number] = asyncio.run(read(engine, requests[number]))[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, asked in requests.items():
        expected = [generation.token_ids.tolist() for generation in answers(engine, asked)]
        assert [piece.token_ids for piece in got[number]] == expected
