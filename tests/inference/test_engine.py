"""The engine: right log-probs, fresh weights, and requests that come, go and fail without hurting each other."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
import torch

from agentlightning.inference import Engine, Generation, SamplingParams
from agentlightning.types import ConfigError, ModelError, RequestError

from .conftest import make_model

Start = Callable[..., Engine]


def prompts(count: int, longest: int = 60, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 350, rng.integers(1, longest)) for _ in range(count)]


def answers(engine: Engine, requests: list[tuple[Any, SamplingParams]]) -> list[Generation]:
    return [future.result(timeout=100) for future in [engine.submit(*request) for request in requests]]


@torch.no_grad()
def fresh_logprobs(model: Any, generation: Generation, temperature: float) -> np.ndarray:
    """(R,) from one ordinary forward pass over the whole sequence."""
    ids = torch.from_numpy(np.concatenate([generation.prompt_ids, generation.token_ids])).long()
    logits = model(ids[None], use_cache=False).logits[0, len(generation.prompt_ids) - 1 : -1]
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    return logprobs.gather(1, ids[len(generation.prompt_ids) :, None])[:, 0].numpy()


@pytest.mark.parametrize("slots", [1, 3, 32])
@pytest.mark.parametrize("budget", [7, 8192])
def test_logprobs_equal_a_fresh_forward(start: Start, model: Any, slots: int, budget: int) -> None:
    engine = start(model, max_slots=slots, max_prefill_tokens=budget)
    requests = [
        (
            prompt,
            SamplingParams(temperature=(0.5, 1.0, 1.3)[at % 3], top_p=(1.0, 0.9)[at % 2], max_tokens=5 + at, seed=at),
        )
        for at, prompt in enumerate(prompts(16))
    ]
    requests[4] = (prompts(1, longest=400, seed=9)[0].repeat(2)[:300], SamplingParams(max_tokens=100, seed=4))
    for (prompt, params), got in zip(requests, answers(engine, requests), strict=True):
        assert got.prompt_ids.tolist() == list(prompt)
        assert got.prompt_ids.dtype == got.token_ids.dtype == np.int32
        assert got.logprobs.dtype == np.float32
        assert len(got.token_ids) == len(got.logprobs) == params.max_tokens
        assert (got.finish_reason, got.temperature, got.weights_version) == ("length", params.temperature, 0)
        np.testing.assert_allclose(got.logprobs, fresh_logprobs(model, got, params.temperature), atol=1e-5, rtol=0)


def test_top_k_is_each_requests_own(start: Start, model: Any) -> None:
    """Requests come and go, so slots are swapped; log-probs stay those of the whole distribution."""
    ks = (0, 1, 3)
    requests = [
        (prompt, SamplingParams(top_k=ks[at % 3], max_tokens=4 + at % 5, seed=at))
        for at, prompt in enumerate(prompts(18))
    ]
    unlikely = 0
    for (_, params), got in zip(requests, answers(start(model, max_slots=5), requests), strict=True):
        ids = torch.from_numpy(np.concatenate([got.prompt_ids, got.token_ids])).long()
        logits = model(ids[None], use_cache=False).logits[0, len(got.prompt_ids) - 1 : -1]
        ranks = (logits > logits.gather(1, ids[len(got.prompt_ids) :, None])).sum(1)
        assert params.top_k == 0 or int(ranks.max()) < params.top_k
        unlikely += int((ranks >= 3).sum())
        np.testing.assert_allclose(got.logprobs, fresh_logprobs(model, got, 1.0), atol=1e-5, rtol=0)
    assert unlikely, "without top_k other tokens come, too"


def test_a_huge_top_k_is_all_tokens(start: Start, model: Any) -> None:
    (prompt,) = prompts(1)
    wide, every = answers(start(model), [(prompt, SamplingParams(top_k=k, max_tokens=6, seed=1)) for k in (10**30, 0)])
    assert wide.token_ids.tolist() == every.token_ids.tolist()


def test_greedy_is_the_argmax_of_a_fresh_forward(start: Start, model: Any) -> None:
    requests = [(prompt, SamplingParams(temperature=0, max_tokens=12)) for prompt in prompts(6)]
    for got in answers(start(model), requests):
        ids = torch.from_numpy(np.concatenate([got.prompt_ids, got.token_ids])).long()
        likeliest = model(ids[None], use_cache=False).logits[0, len(got.prompt_ids) - 1 : -1].argmax(-1)
        assert got.token_ids.tolist() == likeliest.tolist()
        np.testing.assert_allclose(got.logprobs, fresh_logprobs(model, got, 1.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "with a prefix to share"])
def test_after_an_update_tokens_come_from_the_new_weights(start: Start, warm: bool) -> None:
    model, other = make_model(), make_model(seed=1)
    engine = start(model)
    prompt, params = prompts(1, longest=60)[0].repeat(3), SamplingParams(max_tokens=20, seed=1)
    if warm:
        before = answers(engine, [(prompt, params)])[0]
        assert np.abs(fresh_logprobs(other, before, 1.0) - before.logprobs).max() > 0.1, "the weights must matter"
    with engine.updating():
        model.load_state_dict(other.state_dict())
    after = answers(engine, [(prompt, params)])[0]
    assert after.weights_version == engine.version == 1
    np.testing.assert_allclose(after.logprobs, fresh_logprobs(other, after, 1.0), atol=1e-5, rtol=0)


def test_an_update_waits_for_flights_and_makes_others_wait(start: Start) -> None:
    model = make_model()
    engine = start(model, max_slots=2)
    futures = [engine.submit([5], SamplingParams(max_tokens=100, seed=at)) for at in range(6)]
    wait_until(lambda: engine.stats()["live"] == 2)
    with engine.updating():
        flown = [future for future in futures if future.done()]
        assert 2 <= len(flown) < 6, "those in flight are done, those in the queue are not"
        time.sleep(0.05)
        assert engine.stats()["live"] == 0
        assert [future for future in futures if future.done()] == flown
    versions = [future.result(timeout=100).weights_version for future in futures]
    assert versions == sorted(versions)
    assert versions.count(0) == len(flown)


def test_an_update_that_fails_keeps_the_version_but_not_the_cache(start: Start) -> None:
    model, other = make_model(), make_model(seed=1)
    engine = start(model)
    prompt, params = prompts(1)[0].repeat(3), SamplingParams(max_tokens=5, seed=1)
    answers(engine, [(prompt, params)])

    def update() -> None:
        with engine.updating():
            model.load_state_dict(other.state_dict())
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        update()
    after = answers(engine, [(prompt, params)])[0]
    assert after.weights_version == engine.version == 0
    np.testing.assert_allclose(after.logprobs, fresh_logprobs(other, after, 1.0), atol=1e-5, rtol=0)


def test_the_version_of_a_checkpoint_can_be_set(start: Start, model: Any) -> None:
    engine = start(model)
    engine.set_version(7)
    assert answers(engine, [([5], SamplingParams(max_tokens=1))])[0].weights_version == 7
    with engine.updating():
        pass
    assert engine.version == 8


def test_seeds(start: Start, model: Any) -> None:
    engine = start(model)
    one, again, other, free, freer = answers(
        engine, [([5, 6], SamplingParams(max_tokens=30, seed=seed)) for seed in (1, 1, 2, None, None)]
    )
    assert one.token_ids.tolist() == again.token_ids.tolist()
    assert one.logprobs.tobytes() == again.logprobs.tobytes()
    assert len({tuple(got.token_ids.tolist()) for got in (one, other, free, freer)}) == 4


def test_a_group_computes_its_prompt_once(start: Start, model: Any) -> None:
    engine = start(model)
    prompt = prompts(1, seed=3)[0].repeat(5)[:100]
    group = answers(engine, [(prompt, SamplingParams(max_tokens=10, seed=at)) for at in range(8)])
    assert engine.stats()["prompt_tokens"] == 800
    assert engine.stats()["shared_tokens"] == 7 * 99
    for got in group:
        np.testing.assert_allclose(got.logprobs, fresh_logprobs(model, got, 1.0), atol=1e-5, rtol=0)


def test_a_conversation_goes_on_where_it_was(start: Start, model: Any) -> None:
    engine = start(model, max_slots=2)
    first = answers(engine, [(prompts(1, seed=3)[0].repeat(5)[:100], SamplingParams(max_tokens=10))])[0]
    answers(engine, [(prompt, SamplingParams(max_tokens=3)) for prompt in prompts(2, seed=4)])
    prompt = np.concatenate([first.prompt_ids, first.token_ids, prompts(1, seed=5)[0]])
    shared = engine.stats()["shared_tokens"]
    second = answers(engine, [(prompt, SamplingParams(max_tokens=10))])[0]
    assert engine.stats()["shared_tokens"] - shared == 109, "all but the last sampled token, which was never read"
    np.testing.assert_allclose(second.logprobs, fresh_logprobs(model, second, 1.0), atol=1e-5, rtol=0)


def test_end_tokens_stop_and_are_kept(start: Start, model: Any, endless: Any) -> None:
    free = answers(start(model), [([5], SamplingParams(max_tokens=30, seed=1))])[0].token_ids.tolist()
    at = next(i for i in range(3, 30) if free[i] not in free[:i] and free[i] < len(endless))
    ending = copy.deepcopy(endless)
    ending.eos_token_id = free[at]
    for engine, stops in ((start(model), (1, free[at])), (start(model, tokenizer=ending), (1,))):
        stopped = answers(engine, [([5], SamplingParams(max_tokens=30, seed=1, stop_token_ids=stops))])[0]
        assert stopped.token_ids.tolist() == free[: at + 1]
        assert stopped.finish_reason == "stop"


def test_stop_strings_stop_and_their_tokens_are_kept(start: Start, model: Any, endless: Any) -> None:
    engine = start(model)
    free = answers(engine, [([5], SamplingParams(max_tokens=40, seed=3))])[0].token_ids.tolist()
    text = endless.decode(free)
    stop = next(text[at : at + 3] for at in range(8, len(text)) if text[at : at + 3].isascii())
    stopped = answers(engine, [([5], SamplingParams(max_tokens=40, seed=3, stop=("never there", stop)))])[0]
    assert stopped.finish_reason == "stop"
    count = len(stopped.token_ids)
    assert stopped.token_ids.tolist() == free[:count]
    assert stop in endless.decode(free[:count])
    assert stop not in endless.decode(free[: count - 1])


def test_the_response_is_capped_by_the_context(start: Start, model: Any) -> None:
    engine = start(model, max_context=40)
    got = answers(engine, [([5] * 30, SamplingParams(max_tokens=1000)), ([5] * 39, SamplingParams())])
    assert [len(one.token_ids) for one in got] == [10, 1]
    assert [one.finish_reason for one in got] == ["length", "length"]


def test_the_context_is_never_longer_than_the_models(model: Any, tokenizer: Any) -> None:
    assert Engine(model, tokenizer).context == 512
    assert Engine(model, tokenizer, max_context=100_000).context == 512


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "empty"),
        ([5] * 40, "40 tokens.*context of 40"),
        ([5] * 4000, "4000 tokens.*context of 40"),
        ([5, 352], "outside 0 to 351"),
        ([-1], "outside 0 to 351"),
        ([0.5], "token ids"),
        ([[5]], "token ids"),
    ],
)
def test_prompts_that_cannot_be_served_are_refused(start: Start, model: Any, prompt: Any, message: str) -> None:
    engine = start(model, max_context=40)
    with pytest.raises(RequestError, match=message) as caught:
        engine.submit(prompt, SamplingParams())
    assert caught.value.status == 400


def test_diverged_weights_fail_their_requests_and_no_later_one(start: Start) -> None:
    model = make_model()
    engine = start(model, max_slots=4)
    requests = [(prompt, SamplingParams(max_tokens=8, seed=at)) for at, prompt in enumerate(prompts(6))]
    expected = answers(engine, requests)
    good = {name: value.clone() for name, value in model.state_dict().items()}
    with engine.updating(), torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight.fill_(float("nan"))
    # Longer prompts than those that follow in the same slots: what they leave must not be looked at.
    for future in [engine.submit(prompt.repeat(7), params) for prompt, params in requests]:
        with pytest.raises(ModelError, match="version 1 diverged"):
            future.result(timeout=100)
    assert engine.stats()["failed"] == 6
    with engine.updating():
        model.load_state_dict(good)
    for got, before in zip(answers(engine, requests), expected, strict=True):
        assert got.token_ids.tolist() == before.token_ids.tolist()
        assert got.logprobs.tobytes() == before.logprobs.tobytes()


def test_a_failure_of_the_model_fails_the_requests_and_not_the_engine(start: Start) -> None:
    model = make_model()
    engine = start(model)

    def broken(*_: Any) -> None:
        raise MemoryError("no room")

    handle = model.model.layers[2].register_forward_pre_hook(broken)
    with pytest.raises(RequestError, match="no room") as caught:
        answers(engine, [([5], SamplingParams(max_tokens=3))])
    assert caught.value.status == 500
    handle.remove()
    assert len(answers(engine, [([5], SamplingParams(max_tokens=3))])[0].token_ids) == 3


async def test_cancelling_frees_the_slot(start: Start, model: Any) -> None:
    engine = start(model, max_slots=1)
    long = asyncio.create_task(engine.generate([5], SamplingParams(max_tokens=500)))
    waiting = asyncio.create_task(engine.generate([6], SamplingParams(max_tokens=500)))
    await asyncio.to_thread(wait_until, lambda: engine.stats()["live"] == 1)
    waiting.cancel()
    long.cancel()
    for task in (long, waiting):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len((await engine.generate([7], SamplingParams(max_tokens=2))).token_ids) == 2
    assert engine.stats()["tokens"] < 500
    assert engine.stats()["live"] == engine.stats()["queued"] == 0


def test_a_plain_future_can_be_cancelled_too(start: Start, model: Any) -> None:
    engine = start(model, max_slots=1)
    future = engine.submit([5], SamplingParams(max_tokens=500))
    wait_until(lambda: engine.stats()["live"] == 1)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    assert len(answers(engine, [([7], SamplingParams(max_tokens=2))])[0].token_ids) == 2
    assert engine.stats()["tokens"] < 500


def test_stopping_ends_what_is_unfinished(model: Any, tokenizer: Any) -> None:
    engine = Engine(model, tokenizer, max_slots=1)
    with pytest.raises(RequestError, match="not running"):
        engine.submit([5], SamplingParams())
    engine.start()
    with pytest.raises(RuntimeError, match="already"):
        engine.start()
    futures = [engine.submit([5], SamplingParams(max_tokens=500)) for _ in range(2)]
    wait_until(lambda: engine.stats()["live"] == 1)
    engine.stop()
    engine.stop()
    for future in futures:
        with pytest.raises(RequestError, match="not running") as caught:
            future.result(timeout=100)
        assert caught.value.status == 503
    with engine.updating():
        assert engine.version == 0
    engine.start()
    assert answers(engine, [([5], SamplingParams(max_tokens=1))])[0].weights_version == 1
    engine.stop()


def test_memory_that_holds_no_request_is_refused(model: Any, tokenizer: Any) -> None:
    # 3 layers, keys and values, 2 heads of 16 float32 numbers: 768 bytes a token.
    with pytest.raises(ConfigError, match=r"512 tokens take 393216 bytes, `kv_memory` is 393215"):
        Engine(model, tokenizer, kv_memory=393_215)


def test_less_memory_means_fewer_at_once(start: Start, model: Any) -> None:
    engine = start(model, max_slots=8, kv_memory=2 * 393_216)
    requests = [(prompt, SamplingParams(max_tokens=10, seed=1)) for prompt in prompts(5)]
    assert [len(got.token_ids) for got in answers(engine, requests)] == [10] * 5


def test_the_thread_count_is_the_engines_own(start: Start, model: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine = start(model, threads=1)
        answers(engine, [([5], SamplingParams(max_tokens=2))])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_many_threads_may_submit(start: Start, model: Any) -> None:
    engine = start(model, max_slots=8)
    results: dict[int, list[int]] = {}

    def ask(seed: int) -> None:
        results[seed] = answers(engine, [([5, 6], SamplingParams(max_tokens=20, seed=seed))])[0].token_ids.tolist()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = answers(engine, [([5, 6], SamplingParams(max_tokens=20, seed=seed)) for seed in range(24)])
    assert results == {seed: got.token_ids.tolist() for seed, got in enumerate(alone)}


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)
