"""`LightningStoreClient`: retries, errors, long waits, cancelled calls, joined calls, event loops."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agentlightning.store import InMemoryLightningStore
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.types import (
    AttemptedRollout,
    ConfigError,
    ConflictError,
    EnqueueRolloutRequest,
    LeaseLostError,
    NotFoundError,
    Rollout,
    RolloutConfig,
    StoreClosedError,
    StoreUnavailableError,
)

from .helpers import enqueue, span_of, taken, token_call

FOREVER = 120.0
SOON = (0.05, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[LightningStoreServer, LightningStoreClient]]:
    server = LightningStoreServer(InMemoryLightningStore())
    await server.start()
    client = LightningStoreClient(server.endpoint, **{"retry_delays": SOON, **options})
    yield server, client
    await client.close()
    await server.close()


@asynccontextmanager
async def in_front(server: LightningStoreServer, change: Handler) -> AsyncIterator[str]:
    """The address of a server that passes requests on to `server`, unless `change` answers them itself."""
    seen = aiohttp.ClientSession()

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = await change(request)
        if answer is not None:
            return answer
        body = await request.read()
        async with seen.request(
            request.method, server.endpoint + request.raw_path, data=body, headers=dict(request.headers)
        ) as passed:
            return web.Response(status=passed.status, body=await passed.read(), content_type=passed.content_type)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
    await seen.close()


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_errors_come_back_as_what_they_were():
    async with served() as (_, client):
        with pytest.raises(NotFoundError, match="'ro-0'"):
            await client.start_attempt("ro-0")
        rollout = await client.start_rollout(1)
        await client.update_rollout(rollout.rollout_id, status="cancelled")
        with pytest.raises(ConflictError) as conflict:
            await client.update_rollout(rollout.rollout_id, status="running")
        assert not isinstance(conflict.value, LeaseLostError)
        with pytest.raises(LeaseLostError) as lost:
            await client.add_span(span_of(rollout))
        assert lost.value.attempts == [(rollout.rollout_id, rollout.attempt.attempt_id)]
        with pytest.raises(TypeError, match=r"`input\.x`"):
            await client.enqueue_rollout({"x": object()})


async def test_a_closed_store_behind_the_server_is_not_tried_again():
    async with served() as (server, client):
        await server.store.close()
        with pytest.raises(StoreClosedError):
            await client.enqueue_rollout(1)


async def test_an_address_that_is_no_store_is_told_with_what_it_said():
    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="<html>Welcome to the printer</html>")

    async with served() as (server, _), in_front(server, page) as address:
        stranger = LightningStoreClient(address)
        for call in (stranger.enqueue_rollout(1), stranger.get_rollout_by_id("ro-0"), stranger.statistics()):
            with pytest.raises(RuntimeError, match="Welcome to the printer"):
                await call
        await stranger.close()


async def test_nobody_there():
    async with served() as (server, _):
        address = server.endpoint
    client = LightningStoreClient(address, retry_delays=(0.01, 0.01))
    with pytest.raises(StoreUnavailableError, match="3 tries"):
        await client.enqueue_rollout(1)
    await client.close()


async def test_a_failure_of_the_server_is_told_at_once():
    class Broken(InMemoryLightningStore):
        async def statistics(self) -> Any:
            raise ZeroDivisionError("a fault of the store")

    server = LightningStoreServer(Broken())
    await server.start()
    client = LightningStoreClient(server.endpoint, retry_delays=(FOREVER,))
    with pytest.raises(RuntimeError, match="a fault of the store"):
        await client.statistics()
    await client.close()
    await server.close()


# -- retries ----------------------------------------------------------------------------------------------------------


async def test_what_is_answered_but_not_heard_is_done_once():
    """A proxy passes requests on and drops the connection instead of the answer, every other time."""
    heard: dict[str, int] = {}

    async with served() as (server, _):

        async def deaf(request: web.Request) -> Any:
            key = request.headers.get("idempotency-key")
            if key is None:
                return None
            heard[key] = heard.get(key, 0) + 1
            if heard[key] > 1:
                return None
            body = await request.read()
            async with (
                aiohttp.ClientSession() as session,
                session.post(server.endpoint + request.raw_path, data=body, headers=request.headers) as answer,
            ):
                await answer.read()
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        async with in_front(server, deaf) as address:
            client = LightningStoreClient(address, retry_delays=SOON)
            made = await client.enqueue_rollout("task")
            got = await client.dequeue_rollout("w")
            assert got is not None
            assert got.rollout_id == made.rollout_id
            again = await client.start_attempt(got.rollout_id)
            assert again.attempt.sequence_id == 2
            started = await client.start_rollout("other")
            assert (await client.add_resources({})).version == 1
            assert (await client.update_resources("rs-x", {})).version == 1
            await client.close()
        assert set(heard.values()) == {2}
        assert {rollout.rollout_id for rollout in await server.query_rollouts()} == {
            made.rollout_id,
            started.rollout_id,
        }
        counts = await server.statistics()
        assert (counts.get("total_attempts"), counts.get("total_resources")) == (3, 2)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_busy_server_is_asked_again(status: int):
    refusals = 2

    async def busy(request: web.Request) -> Any:
        nonlocal refusals
        refusals -= 1
        return web.Response(status=status, text="busy") if refusals >= 0 else None

    async with served() as (server, _), in_front(server, busy) as address:
        client = LightningStoreClient(address, retry_delays=SOON)
        assert isinstance(await client.enqueue_rollout(1), Rollout)
        assert refusals == -1
        await client.close()


async def test_a_server_that_comes_back_on_its_port_finds_its_clients():
    home = InMemoryLightningStore()
    first = LightningStoreServer(home)
    await first.start()
    port = int(first.endpoint.rpartition(":")[2])
    client = LightningStoreClient(first.endpoint, retry_delays=SOON)
    await client.enqueue_rollout(1)
    await first.stop()
    pending = asyncio.create_task(client.enqueue_rollout(2))
    await asyncio.sleep(0.1)
    second = LightningStoreServer(home, port=port)
    await second.start()
    await pending
    assert (await client.statistics()).get("total_rollouts") == 2
    await client.close()
    await second.close()


async def test_a_server_may_serve_the_store_of_another_one():
    async with served() as (server, client):
        front = LightningStoreServer(client)
        await front.start()
        outer = LightningStoreClient(front.endpoint)
        try:
            ids = await enqueue(outer, 3)
            got = await taken(outer, "w")
            assert await outer.add_span(span_of(got)) is not None
            assert [rollout.rollout_id for rollout in await outer.query_rollouts()] == ids
            found = await outer.query_many_spans([(got.rollout_id, got.attempt.attempt_id)])
            assert (await server.query_spans(got.rollout_id)).items == found[got.rollout_id]
            assert (await outer.query_spans(got.rollout_id)).items == found[got.rollout_id]
            url = f"{front.endpoint}/v1/agl/queues/rollouts/enqueue"
            async with aiohttp.ClientSession(headers={"Idempotency-Key": "through both"}) as session:
                for _ in range(2):
                    async with session.post(url, json={"rollouts": [{"input": 1}]}) as answer:
                        assert answer.status == 201
            assert (await server.statistics()).get("total_rollouts") == 4
        finally:
            await outer.close()
            await front.stop()


# -- waiting ----------------------------------------------------------------------------------------------------------


async def test_waits_longer_than_a_request_are_several_requests():
    paths: list[str] = []

    async def note(request: web.Request) -> Any:
        paths.append(request.path.rpartition("/")[2])

    async with served() as (server, _), in_front(server, note) as address:
        client = LightningStoreClient(address, request_timeout=0.5)
        waiting = asyncio.create_task(client.dequeue_rollout("w", timeout=FOREVER))
        await asyncio.sleep(1.0)
        rollout = await server.enqueue_rollout(1)
        got = await waiting
        assert got is not None
        assert got.rollout_id == rollout.rollout_id
        assert paths.count("dequeue") >= 2

        ended = asyncio.create_task(client.wait_for_rollouts(rollout_ids=[rollout.rollout_id, "ro-unknown"]))
        await asyncio.sleep(1.0)
        assert not ended.done()
        await server.update_attempt(got.rollout_id, got.attempt.attempt_id, status="succeeded")
        assert [rollout.status for rollout in await ended] == ["succeeded"]
        assert paths.count("rollouts") >= 2
        assert await client.wait_for_rollouts(rollout_ids=["ro-unknown"]) == []
        assert await client.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=0) != []
        await client.close()


async def test_a_wait_ends_in_time():
    async with served() as (_, client):
        rollout = await client.enqueue_rollout(1)
        assert await client.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=0.05) == []
        assert await client.dequeue_rollout("w") is not None
        assert await client.dequeue_rollout("w", timeout=0.05) is None


async def test_a_cancelled_dequeue_gives_back_what_the_server_had_taken():
    """The proxy holds back the answer of a dequeue that took a rollout; its caller gives up meanwhile."""
    took = asyncio.Event()

    async with served() as (server, _):

        async def slow(request: web.Request) -> Any:
            if not request.path.endswith("/dequeue"):
                return None
            body = await request.read()
            async with (
                aiohttp.ClientSession() as session,
                session.post(server.endpoint + request.raw_path, data=body, headers=request.headers) as answer,
            ):
                assert len(await answer.json()) == 1
            took.set()
            await asyncio.sleep(FOREVER)
            return None

        async with in_front(server, slow) as address:
            (rollout_id,) = await enqueue(server, 1)
            client = LightningStoreClient(address)
            call = asyncio.create_task(client.dequeue_rollout("w", timeout=FOREVER))
            async with asyncio.timeout(FOREVER):
                await took.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            again = await server.dequeue_rollout("other")
            assert again is not None
            assert (again.rollout_id, again.attempt.sequence_id) == (rollout_id, 1)
            await client.close()


async def test_a_cancelled_wait_takes_nothing_later():
    async with served() as (server, client):
        call = asyncio.create_task(client.dequeue_rollout("w", timeout=FOREVER))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await enqueue(server, 1)
        assert await server.dequeue_rollout("other") is not None


async def test_what_a_release_came_before_takes_nothing():
    async with served() as (server, client), aiohttp.ClientSession() as session:
        await enqueue(server, 1)
        assert await client.release_rollouts("early") == 0
        url = f"{server.endpoint}/v1/agl/queues/rollouts/dequeue"
        async with session.post(url, json={"limit": 1}, headers={"Idempotency-Key": "early"}) as answer:
            assert await answer.json() == []
        assert await server.dequeue_rollout("other") is not None


# -- many at once -----------------------------------------------------------------------------------------------------


async def test_joined_calls_each_get_their_own_answer():
    async with served() as (server, client):
        rollouts = await asyncio.gather(*(client.enqueue_rollout({"number": number}) for number in range(200)))
        assert [rollout.input["number"] for rollout in rollouts] == list(range(200))
        assert len({rollout.rollout_id for rollout in rollouts}) == 200
        found = await asyncio.gather(
            *(client.get_rollout_by_id(rollout.rollout_id) for rollout in rollouts),
            *(client.get_rollout_by_id(f"ro-{number}") for number in range(50)),
        )
        assert found[:200] == rollouts
        assert found[200:] == [None] * 50
        results = await asyncio.gather(
            *(client.start_attempt("ro-0" if number % 2 else rollouts[number].rollout_id) for number in range(100)),
            return_exceptions=True,
        )
        kinds = [NotFoundError if isinstance(result, NotFoundError) else type(result).__name__ for result in results]
        assert kinds == ["AttemptedRollout", NotFoundError] * 50
        assert (await server.statistics()).get("total_attempts") == 50


async def test_every_rollout_goes_to_one_of_many_callers_though_some_give_up():
    async with served() as (server, client):
        ids = await enqueue(server, 100)
        calls = [asyncio.create_task(client.dequeue_rollout(f"w{number}")) for number in range(150)]
        await asyncio.sleep(0)
        for call in calls[::7]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        got = [result.rollout_id for result in results if result is not None and not isinstance(result, BaseException)]
        while (left := await client.dequeue_rollout("rest")) is not None:
            got.append(left.rollout_id)
        assert sorted(got) == sorted(ids)


async def test_a_slow_call_does_not_hold_up_small_ones():
    async with served() as (_, client):
        waits = [asyncio.create_task(client.dequeue_rollout(f"w{number}", timeout=FOREVER)) for number in range(5)]
        async with asyncio.timeout(FOREVER):
            await asyncio.gather(*(client.update_worker(f"v{number}") for number in range(20)))
        assert not any(wait.done() for wait in waits)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def test_bulk_spans_come_back_numbered_and_whole():
    async with served() as (_, client):
        rollout = await client.start_rollout(1)
        spans = [span_of(rollout, f"s{number}", attributes={"n": number, "x": 0.5}) for number in range(300)]
        spans[7].token_call = token_call()
        stored = await client.add_many_spans([*spans, spans[3]])
        assert [span.sequence_id for span in stored] == list(range(1, 301))
        assert await client.add_many_spans(spans[:2]) == []
        found = await client.query_many_spans([(rollout.rollout_id, rollout.attempt.attempt_id)])
        assert [span.name for span in found[rollout.rollout_id]] == [span.name for span in spans]
        call = found[rollout.rollout_id][7].token_call
        assert call is not None
        assert call.to_bytes() == token_call().to_bytes()


# -- event loops ------------------------------------------------------------------------------------------------------


async def test_one_client_serves_many_threads_and_their_event_loops():
    async with served() as (server, client):
        await enqueue(server, 40)

        async def work() -> list[str]:
            got = await asyncio.gather(*(client.dequeue_rollout("w") for _ in range(10)))
            return [rollout.rollout_id for rollout in got if rollout is not None]

        ids = await asyncio.gather(*(asyncio.to_thread(lambda: asyncio.run(work())) for _ in range(4)))
        assert len({rollout_id for some in ids for rollout_id in some}) == 40


async def test_connections_end_with_their_event_loop():
    async with served() as (_, client):
        complaints: list[Any] = []

        def run() -> None:
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(client.enqueue_rollout(1))

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                await asyncio.to_thread(run)
            gc.collect()
        assert complaints == []
        assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


async def test_a_closed_client_says_so():
    async with served() as (_, client):
        await client.enqueue_rollout(1)
        await client.close()
        with pytest.raises(StoreClosedError):
            await client.enqueue_rollout(1)


async def test_an_empty_list_needs_no_request():
    client = LightningStoreClient("http://127.0.0.1:9")
    assert await client.enqueue_many_rollouts([]) == []
    assert await client.add_many_spans([]) == []
    assert await client.get_many_span_sequence_ids([]) == []
    await client.close()


async def test_upstreams_way_of_naming_the_address():
    client = LightningStoreClient("http://host:1/", health_retry_delays=(0.1,))
    assert client.server_address_root == "http://host:1"
    assert client.server_address == "http://host:1/v1/agl"
    assert client.otlp_traces_endpoint() == "http://host:1/v1/traces"


async def test_a_taken_rollout_is_what_the_store_has():
    async with served() as (server, client):
        await client.enqueue_many_rollouts([EnqueueRolloutRequest(input={"n": float("inf")}, metadata={"é": "ü"})])
        got = await taken(client, "w")
        assert got == await server.get_rollout_by_id(got.rollout_id)


class EndsBetween(InMemoryLightningStore):
    """Whoever looks for open rollouts sees them end just before."""

    ending: AttemptedRollout | None = None

    async def rollout_rows(self, query: Any) -> Any:
        if self.ending is not None:
            rollout, self.ending = self.ending, None
            await self.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
        return await super().rollout_rows(query)


async def test_what_ends_between_two_requests_of_a_wait_is_not_left_out():
    home = EndsBetween()
    server = LightningStoreServer(home)
    await server.start()
    client = LightningStoreClient(server.endpoint, request_timeout=0.5)
    rollout = home.ending = await client.start_rollout(1)
    ended = await asyncio.wait_for(client.wait_for_rollouts(rollout_ids=[rollout.rollout_id]), FOREVER)
    assert [each.rollout_id for each in ended] == [rollout.rollout_id]
    await client.close()
    await server.close()


async def test_what_an_unanswered_dequeue_took_is_given_back_by_the_next_one():
    cut = True

    async def lose_the_answer(request: web.Request) -> web.StreamResponse | None:
        if cut and request.path.endswith("/dequeue"):
            async with aiohttp.request(
                "POST", server.endpoint + request.path, data=await request.read(), headers=dict(request.headers)
            ) as done:
                assert done.status == 200
            return web.Response(status=502)
        return None

    async with served() as (server, _), in_front(server, lose_the_answer) as address:
        client = LightningStoreClient(address, retry_delays=(0.01,))
        rollout = await client.enqueue_rollout(1)
        with pytest.raises(StoreUnavailableError):
            await client.dequeue_rollout("w")
        cut = False
        again = await client.dequeue_rollout("w")
        assert again is not None
        assert (again.rollout_id, again.attempt.sequence_id) == (rollout.rollout_id, 1)
        await client.close()


async def test_an_empty_answer_to_joined_calls_is_a_failure_not_a_wait_for_ever():
    async def nothing(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=200) if request.path.endswith("/batch") else None

    async with served() as (server, _), in_front(server, nothing) as address:
        client = LightningStoreClient(address, retry_delays=())
        calls = [client.get_rollout_by_id(f"ro-{number}") for number in range(8)]
        got = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), FOREVER)
        assert any(isinstance(each, StoreUnavailableError) for each in got)
        await client.close()


async def test_a_repeated_request_changes_nothing_that_came_between():
    """An answer that is lost makes the client ask again, when another worker has the rollout already."""
    lost: set[str] = set()

    async def lose_the_answer(request: web.Request) -> web.StreamResponse | None:
        if not lost and request.method == "POST" and "/rollouts/ro-" in request.path:
            lost.add(request.path)
            async with aiohttp.request(
                "POST", server.endpoint + request.path, data=await request.read(), headers=dict(request.headers)
            ):
                await server.dequeue_rollout("other")
            return web.Response(status=502)
        return None

    async with served() as (server, _), in_front(server, lose_the_answer) as address:
        client = LightningStoreClient(address, retry_delays=SOON)
        for number in range(2):
            lost.clear()
            rollout = await server.start_rollout(
                number, config=RolloutConfig(retry_condition=["failed"], max_attempts=9)
            )
            if number:
                await client.update_attempt(rollout.rollout_id, "latest", status="failed")
            else:
                await client.update_rollout(rollout.rollout_id, status="queuing")
            attempts = await server.query_attempts(rollout.rollout_id)
            assert [attempt.status for attempt in attempts] == ["failed", "preparing"]
        await client.close()


@pytest.mark.parametrize("address", ["foo", "http://", "ftp://a:1", "http://a:99999", "http://a:b"])
def test_addresses_that_are_none_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="`server_address` is"):
        LightningStoreClient(address)
