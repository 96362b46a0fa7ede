"""A runner asks the gateways, before the final status, whether the store has all LLM calls of an attempt."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from agentlightning.litagent import rollout
from agentlightning.runner import Hook, LitAgentRunner
from agentlightning.runner.records import MissingRecords, Records, gateways_of
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer import DummyTracer
from agentlightning.types import (
    LLM,
    TERMINAL_ROLLOUT,
    AttemptedRollout,
    PromptTemplate,
    ProxyLLM,
    Resource,
    Rollout,
)

from ..gateway import CONFIRMED, StandIn, stand_in

NOT_YET = (503, {"error": {"message": "2 calls still wait for the store", "code": "not_settled"}})
STALE = (409, {"error": {"message": "it is not the latest attempt", "code": "stale_attempt"}})


@rollout
def good(task: Any, llm: LLM) -> float:
    return 1.0


@rollout
def bad(task: Any, llm: LLM) -> float:
    raise KeyError("mine")


@pytest.fixture
def store() -> InMemoryLightningStore:
    return InMemoryLightningStore()


async def attempted(
    store: InMemoryLightningStore, agent: Any, *resources: Resource, wait: float = 60.0, hooks: Any = ()
) -> Rollout:
    """One rollout from the queue to its end, or to where the runner left it."""
    named: Any = {f"llm_{number}": resource for number, resource in enumerate(resources)}
    await store.add_resources(named)
    queued = await store.enqueue_rollout("task")
    runner: LitAgentRunner[Any] = LitAgentRunner(DummyTracer(), max_rollouts=1, records_wait=wait)
    with runner.run_context(agent=agent, store=store, hooks=hooks):
        await runner.iter()
    done = await store.get_rollout_by_id(queued.rollout_id)
    assert done is not None
    return done


def proxy(gateway: StandIn, **fields: Any) -> ProxyLLM:
    return ProxyLLM(confirms_calls=True, endpoint=gateway.url, model="m", **fields)


async def error_of(store: InMemoryLightningStore, done: Rollout) -> dict[str, str]:
    """The error on the attempt, which is also in its last span."""
    attempt = await store.get_latest_attempt(done.rollout_id)
    assert attempt is not None
    assert attempt.metadata is not None
    error = attempt.metadata["error"]
    spans = await store.query_spans(done.rollout_id, "latest", name="agentlightning.exception")
    assert [span.attributes["exception.message"] for span in spans] == [error["message"]]
    return error


async def test_a_gateway_is_asked_once_and_the_attempt_succeeds(store: InMemoryLightningStore):
    async with stand_in() as gateway:
        done = await attempted(store, good, proxy(gateway, api_key="sk-1"), proxy(gateway, api_key="sk-1"))
    assert done.status == "succeeded"
    assert isinstance(done, AttemptedRollout)
    path = f"/rollout/{done.rollout_id}/attempt/{done.attempt.attempt_id}/complete"
    assert gateway.asked == [(path, "Bearer sk-1")]


async def test_every_distinct_gateway_is_asked(store: InMemoryLightningStore):
    async with stand_in() as one, stand_in() as two:
        done = await attempted(store, good, proxy(one), proxy(two), LLM(endpoint="http://127.0.0.1:1/v1", model="m"))
    assert done.status == "succeeded"
    assert (len(one.asked), len(two.asked)) == (1, 1)
    assert one.asked[0][1] is None


async def test_it_is_asked_again_until_the_store_has_all_calls(store: InMemoryLightningStore):
    """The rollout has not ended before that."""
    seen: list[str] = []

    async def look() -> None:
        (running,) = await store.query_rollouts()
        seen.append(running.status)

    answers = (NOT_YET, (0, None), (502, "a proxy's"), (429, {}), CONFIRMED)
    async with stand_in(*answers) as gateway:
        gateway.when_asked = look
        done = await attempted(store, good, proxy(gateway))
    assert done.status == "succeeded"
    assert len(seen) == len(answers)
    assert not TERMINAL_ROLLOUT.intersection(seen)


async def test_a_gateway_that_never_confirms_fails_the_attempt(store: InMemoryLightningStore):
    async with stand_in(NOT_YET) as gateway:
        done = await attempted(store, good, proxy(gateway), wait=0.3)
    assert done.status == "failed"
    error = await error_of(store, done)
    assert error["type"] == "MissingRecords"
    assert gateway.url.removesuffix("/v1") in error["message"]
    assert "2 calls still wait for the store" in error["message"]
    assert "give it the `spool_dir` that it had" in error["message"]


async def test_a_gateway_that_is_gone_fails_the_attempt(store: InMemoryLightningStore):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = await attempted(
        store, good, ProxyLLM(confirms_calls=True, endpoint=f"http://127.0.0.1:{port}/v1", model="m"), wait=0.3
    )
    assert done.status == "failed"
    assert f"http://127.0.0.1:{port}/rollout/" in (await error_of(store, done))["message"]


async def test_a_gateway_that_hangs_fails_the_attempt(store: InMemoryLightningStore):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        done = await attempted(store, good, ProxyLLM(confirms_calls=True, endpoint=url, model="m"), wait=0.3)
    assert (await error_of(store, done))["type"] == "MissingRecords"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {"error": {"message": "the store knows no rollout"}}), "can't confirm.*the store knows no rollout"),
        ((422, {"error": {"message": "an answered call was refused"}}), "can't confirm.*an answered call was refused"),
        ((401, {"error": {"message": "wrong key"}}), "does not take the `api_key` of its `ProxyLLM`: wrong key"),
        ((404, {"detail": "Not Found"}), r"answered 404, but not as a gateway.*`LLMProxy.as_resource\(\)`.*use `LLM`"),
        ((200, ["hello"]), "answered 200, but not as a gateway does"),
        ((302, None), "answered 302, but not as a gateway does"),
    ],
)
async def test_answers_that_asking_again_would_not_change(store: InMemoryLightningStore, answer: Any, said: str):
    async with stand_in(answer) as gateway:
        done = await attempted(store, good, proxy(gateway))
        assert len(gateway.asked) == 1
    assert done.status == "failed"
    error = await error_of(store, done)
    with pytest.raises(MissingRecords, match=said):
        raise MissingRecords(error["message"])


async def test_an_attempt_that_no_longer_counts_is_dropped(
    store: InMemoryLightningStore, caplog: pytest.LogCaptureFixture
):
    async with stand_in(STALE) as gateway:
        done = await attempted(store, good, proxy(gateway))
    assert done.status not in TERMINAL_ROLLOUT, "nothing was written about it"
    assert "is dropped: it is not the latest attempt" in caplog.text


async def test_a_failed_agent_waits_too_and_keeps_its_error(store: InMemoryLightningStore):
    async with stand_in(NOT_YET, CONFIRMED) as gateway:
        done = await attempted(store, bad, proxy(gateway))
        assert len(gateway.asked) == 2
        assert (await error_of(store, done))["type"] == "KeyError"
        gateway.answers = [NOT_YET]
        done = await attempted(store, bad, proxy(gateway), wait=0.3)
    assert done.status == "failed"
    assert (await error_of(store, done))["type"] == "KeyError"


async def test_a_stopped_runner_does_not_wait(store: InMemoryLightningStore):
    began = asyncio.Event()

    @rollout
    async def endless(task: Any, llm: LLM) -> float:
        began.set()
        await asyncio.Event().wait()
        return 0.0

    async with stand_in() as gateway:
        work = asyncio.create_task(attempted(store, endless, proxy(gateway)))
        await began.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert gateway.asked == []
    (done,) = await store.query_rollouts()
    attempt = await store.get_latest_attempt(done.rollout_id)
    assert attempt is not None
    assert attempt.status == "unresponsive"


async def test_hooks_see_the_spans_of_all_calls(store: InMemoryLightningStore):
    """`on_rollout_end` comes after the gateway has confirmed."""
    asked_before: list[int] = []

    async with stand_in(NOT_YET, CONFIRMED) as gateway:

        class Seeing(Hook):
            async def on_rollout_end(self, **about: Any) -> None:
                asked_before.append(len(gateway.asked))

        await attempted(store, good, proxy(gateway), hooks=[Seeing()])
    assert asked_before == [2]


async def test_the_connection_is_shared_and_closed_with_its_last_user():
    async with stand_in() as gateway:
        records = Records()
        async with records:
            async with records:
                await records.confirm({gateway.url + "/complete": None})
            session = records._http  # pyright: ignore[reportPrivateUsage]
            assert session is not None
            await records.confirm({gateway.url + "/complete": None})
            assert records._http is session  # pyright: ignore[reportPrivateUsage]
            assert not session.closed
        assert session.closed


async def test_only_proxies_are_gateways(store: InMemoryLightningStore):
    taken = await store.start_rollout("task")
    resources: dict[str, Resource] = {
        "plain": LLM(endpoint="http://a/v1", model="m"),
        "prompt": PromptTemplate(template="x"),
    }
    assert gateways_of(resources, taken) == {}
    base = f"/rollout/{taken.rollout_id}/attempt/{taken.attempt.attempt_id}/complete"
    resources["one"] = ProxyLLM(confirms_calls=True, endpoint="http://b/v1", model="m", api_key="k")
    resources["same"] = ProxyLLM(confirms_calls=True, endpoint="http://b/v1/", model="n", api_key="k")
    resources["deep"] = ProxyLLM(confirms_calls=True, endpoint="http://c/llm", model="m")
    assert gateways_of(resources, taken) == {f"http://b{base}": "k", f"http://c/llm{base}": None}
