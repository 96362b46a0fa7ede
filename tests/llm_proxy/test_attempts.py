"""Seeds, forced sampling parameters, and whose calls are refused."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from agentlightning.llm_proxy import LLMProxy, call_seed
from agentlightning.llm_proxy.attempts import Attempts
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Rollout

from .conftest import QUESTION, LocalBackend, client_for


class CountingStore(InMemoryLightningStore):
    """The memory store that counts how often it is asked for a rollout."""

    asked = 0

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        self.asked += 1
        await asyncio.sleep(0)
        return await super().get_rollout_by_id(rollout_id)


def test_the_seed_formula_is_stable() -> None:
    assert call_seed(11, 1) == 5572303092258889782
    assert call_seed(0, 2) == 5111742260812057328
    seeds = {call_seed(seed, number) for seed in range(50) for number in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)


async def test_calls_get_the_seeds_of_their_numbers(
    proxy: LLMProxy, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    async with client_for(proxy, rollout) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
        await client.chat.completions.create(model="tiny", messages=QUESTION, seed=5)
        await client.chat.completions.create(model="tiny", messages=QUESTION)
    # The agent's own seed gives way: with it, all samples of a task would be the same.
    assert [body["seed"] for body in backend.bodies] == [call_seed(11, 1), call_seed(11, 2), call_seed(11, 3)]


async def test_a_second_attempt_has_the_same_seeds(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    again = await store.start_attempt(rollout.rollout_id)
    async with client_for(proxy, again) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
    assert backend.bodies[0]["seed"] == call_seed(11, 1)


async def test_without_a_seed_nothing_is_set(
    proxy: LLMProxy, store: InMemoryLightningStore, backend: LocalBackend
) -> None:
    async with client_for(proxy, await store.start_rollout("a task")) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
    assert backend.bodies == [{"model": "tiny", "messages": QUESTION}]


@pytest.mark.parametrize(
    ("mode", "asked", "expected"),
    [
        ("train", {}, {"temperature": 1.0, "max_tokens": 64}),
        ("train", {"temperature": 0.2, "max_tokens": 500}, {"temperature": 1.0, "max_tokens": 64}),
        ("train", {"max_tokens": 8}, {"temperature": 1.0, "max_tokens": 8}),
        ("train", {"max_completion_tokens": 500}, {"temperature": 1.0, "max_completion_tokens": 64}),
        ("train", {"max_completion_tokens": -1}, {"temperature": 1.0, "max_completion_tokens": 64}),
        ("val", {"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0, "top_p": 0.9}),
        ("val", {"extra_body": {"top_k": 5}}, {"temperature": 0.0}),
        ("train", {"extra_body": {"top_k": 5}}, {"temperature": 1.0, "max_tokens": 64, "top_k": 5}),
        ("test", {"temperature": 0.7}, {"temperature": 0.7}),
        (None, {"temperature": 0.7}, {"temperature": 0.7}),
    ],
)
async def test_sampling_parameters_are_forced_by_mode(
    proxy: LLMProxy, store: InMemoryLightningStore, backend: LocalBackend, mode: Any, asked: Any, expected: Any
) -> None:
    proxy.sampling_parameters = {
        "train": {"temperature": 1.0, "max_tokens": 64},
        "val": {"temperature": 0.0, "top_k": None},  # `None` takes it out
    }
    async with client_for(proxy, await store.start_rollout("a task", mode=mode)) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION, **asked)
    assert backend.bodies == [{"model": "tiny", "messages": QUESTION, **expected}]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
async def test_the_bound_may_have_any_of_its_names(
    proxy: LLMProxy, store: InMemoryLightningStore, backend: LocalBackend, name: str
) -> None:
    proxy.sampling_parameters = {"train": {name: 64}}
    async with client_for(proxy, await store.start_rollout("a task", mode="train")) as client:
        for asked in (500, 8):
            await client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=asked)
            await client.responses.create(model="tiny", input="two and two", max_output_tokens=max(asked, 16))
    assert [body["max_tokens"] for body in backend.bodies] == [64, 64, 8, 16]
    assert all(body.keys() == {"model", "messages", "max_tokens"} for body in backend.bodies)


async def refused(proxy: LLMProxy, rollout_id: str, attempt_id: str) -> openai.APIStatusError:
    base_url = f"{proxy.base_url.removesuffix('/v1')}/rollout/{rollout_id}/attempt/{attempt_id}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="x") as client:  # with the client's own retries
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="tiny", messages=QUESTION)
    return caught.value


async def test_an_unknown_rollout_is_not_found(proxy: LLMProxy, backend: LocalBackend) -> None:
    error = await refused(proxy, "ro-nowhere", "at-1")
    assert error.status_code == 404
    assert "knows no rollout `ro-nowhere`" in error.message
    assert backend.bodies == []


async def test_only_the_latest_attempt_may_call(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    again = await store.start_attempt(rollout.rollout_id)
    error = await refused(proxy, rollout.rollout_id, rollout.attempt.attempt_id)
    assert error.status_code == 409
    assert again.attempt.attempt_id in error.message
    assert backend.bodies == []


async def test_a_queued_rollout_has_no_attempt_that_could_call(proxy: LLMProxy, store: InMemoryLightningStore) -> None:
    queued = await store.enqueue_rollout("a task")
    assert (await refused(proxy, queued.rollout_id, "at-1")).status_code == 409


@pytest.mark.parametrize("status", ["succeeded", "failed"])
async def test_an_ended_attempt_may_not_call(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, status: Any
) -> None:
    await store.update_attempt(rollout.rollout_id, "latest", status=status)
    error = await refused(proxy, rollout.rollout_id, rollout.attempt.attempt_id)
    assert error.status_code == 409
    assert f"attempt `{status}`" in error.message


async def test_a_cancelled_rollout_may_not_call(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    await store.update_rollout(rollout.rollout_id, status="cancelled")
    error = await refused(proxy, rollout.rollout_id, rollout.attempt.attempt_id)
    assert error.status_code == 409
    assert error.response.headers["x-should-retry"] == "false"


async def test_answer_of_an_attempt_that_lost_its_lease_meanwhile_is_withheld(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    async with client_for(proxy, rollout) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
    again = await store.start_attempt(rollout.rollout_id)
    for _ in range(2):
        error = await refused(proxy, rollout.rollout_id, rollout.attempt.attempt_id)
        assert (error.status_code, error.code) == (409, "stale_attempt")
        assert error.response.headers["x-should-retry"] == "false"
        assert "stop th" in error.message
    assert len(backend.bodies) == 2, "the last call was refused before the backend worked for it"
    found = await store.query_spans(rollout.rollout_id)
    assert [span.attempt_id for span in found] == [rollout.attempt.attempt_id]
    async with client_for(proxy, again) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)


async def test_call_of_a_rollout_that_retention_has_dropped_is_not_found(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    async with client_for(proxy, rollout) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
    await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
    assert await store.trim(0) == 1
    for _ in range(2):
        error = await refused(proxy, rollout.rollout_id, rollout.attempt.attempt_id)
        assert (error.status_code, error.code) == (404, "unknown_rollout")


async def test_a_gateway_that_forgot_an_attempt_goes_on_counting_its_calls(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout, backend: LocalBackend
) -> None:
    """Else the seeds of its first calls would come again."""
    async with client_for(proxy, rollout) as client:
        for _ in range(2):
            await client.chat.completions.create(model="tiny", messages=QUESTION)
    await proxy.stop()
    await proxy.start()
    async with client_for(proxy, rollout) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
    assert [body["seed"] for body in backend.bodies] == [call_seed(11, number) for number in (1, 2, 3)]


async def test_the_store_is_asked_once_an_attempt_even_by_calls_at_once() -> None:
    store = CountingStore()
    rollout = await store.start_rollout("a task")
    attempts = Attempts()
    ids = (rollout.rollout_id, rollout.attempt.attempt_id)
    states = await asyncio.gather(*(attempts.get(store, *ids) for _ in range(10)))
    assert store.asked == 1
    assert all(state is states[0] for state in states)
    for expected in (1, 2, 3):
        with states[0].calling() as number:
            assert number == expected
    assert await attempts.get(store, *ids) is states[0]
    assert store.asked == 1


async def test_a_caller_that_gives_up_does_not_spoil_the_others() -> None:
    store = CountingStore()
    rollout = await store.start_rollout("a task")
    attempts = Attempts()
    ids = (rollout.rollout_id, rollout.attempt.attempt_id)
    first = asyncio.create_task(attempts.get(store, *ids))
    second = asyncio.create_task(attempts.get(store, *ids))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).attempt_id == ids[1]


async def test_what_is_remembered_is_bounded() -> None:
    store = CountingStore()
    rollouts = [await store.start_rollout(index) for index in range(4)]
    attempts = Attempts(limit=2)
    for index in (0, 1, 0, 2, 0, 3, 0):
        await attempts.get(store, rollouts[index].rollout_id, rollouts[index].attempt.attempt_id)
    assert store.asked == 4  # 0 called all the time and was never forgotten
    await attempts.get(store, rollouts[1].rollout_id, rollouts[1].attempt.attempt_id)
    assert store.asked == 5


async def test_a_store_that_fails_is_said_and_asked_again(
    proxy: LLMProxy, store: InMemoryLightningStore, rollout: AttemptedRollout
) -> None:
    await store.close()
    async with client_for(proxy, rollout) as client:
        with pytest.raises(openai.InternalServerError, match="could not be asked") as caught:
            await client.chat.completions.create(model="tiny", messages=QUESTION)
        assert caught.value.status_code == 503
        fresh = InMemoryLightningStore()
        with pytest.raises(RuntimeError, match="stop"):
            proxy.set_store(fresh)
        await proxy.stop()
        proxy.set_store(fresh)
        assert proxy.get_store() is fresh
        await proxy.start()
        other = await fresh.start_rollout("a task")
    async with client_for(proxy, other) as client:
        await client.chat.completions.create(model="tiny", messages=QUESTION)
