"""Fail-over, retries, health and limits, against real endpoints that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from agentlightning.llm_proxy import health
from agentlightning.llm_proxy.backend import Dialect, Json
from agentlightning.llm_proxy.routes import ModelRoutes
from agentlightning.types import ChatReply, RequestError

from .conftest import LocalBackend, until
from .endpoints import (
    BODY,
    STREAMED,
    HttpEndpoint,
    endpoints,
    first,
    hang,
    midway,
    reset,
    status,
    together,
    when,
    whole,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asserted on time; this only keeps the tests from waiting."""
    monkeypatch.setattr("agentlightning.llm_proxy.endpoint._FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(health, "FIRST_PAUSE_S", 0.02)


@asynccontextmanager
async def routes_to(
    servers: list[HttpEndpoint], params: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[ModelRoutes]:
    routes = ModelRoutes(**options)
    routes.set_model_list([server.entry(**(params or {})) for server in servers])
    yield routes
    await routes.close()


def text(reply: ChatReply) -> str:
    return reply.response["choices"][0]["message"]["content"]


async def call(routes: ModelRoutes, rollout_id: str | None = "ro-1", body: Json = BODY) -> str:
    return text(await routes.find("main").call("chat", body, rollout_id=rollout_id))


async def chunks(routes: ModelRoutes, rollout_id: str | None = "ro-1") -> list[Json | ChatReply]:
    return [part async for part in routes.find("main").stream("chat", STREAMED, rollout_id=rollout_id)]


async def _collect(routes: ModelRoutes, into: list[Any]) -> None:
    async for part in routes.find("main").stream("chat", STREAMED, rollout_id="ro-1"):
        into.append(part)  # noqa: PERF401  # what came before an error counts


async def order(routes: ModelRoutes, servers: list[HttpEndpoint]) -> list[HttpEndpoint]:
    """The servers as `ro-1` prefers them: asked until they fail."""
    found: list[HttpEndpoint] = []
    for _ in servers:
        before = [server.asked for server in servers]
        for server in found:
            server.answer = status(503)
        await call(routes)
        found.append(
            next(
                server
                for server, asked in zip(servers, before, strict=True)
                if server.asked > asked and server not in found
            )
        )
    for server in servers:
        server.answer, server.asked = whole, 0
    await until(lambda: _all_healthy(routes))
    return found


def _all_healthy(routes: ModelRoutes) -> bool:
    return all(endpoint.server.health.state == 0 for endpoint in routes.find("main").endpoints)


FAILURES = {"500": status(500), "503": status(503), "429": status(429), "reset": reset, "hang": hang}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_failing_endpoint_is_passed_over(failure: str, streamed: bool) -> None:
    async with endpoints(3) as servers, routes_to(servers, {"timeout": 0.5 if failure == "hang" else 30}) as routes:
        one, two, three = await order(routes, servers)
        one.answer = two.answer = FAILURES[failure]
        if streamed:
            *given, reply = await chunks(routes)
            assert isinstance(reply, ChatReply)
            assert text(reply) == "fine"
            assert len(given) == 3
        else:
            assert await call(routes) == "fine"
        assert (one.asked, two.asked, three.asked) == (1, 1, 1)


async def test_an_endpoint_that_is_not_there_is_passed_over() -> None:
    async with endpoints(2) as servers, routes_to(servers) as routes:
        one, two = await order(routes, servers)
        await one.stop()
        assert await call(routes) == "fine"
        assert two.asked == 1


async def test_one_endpoint_is_asked_again() -> None:
    async with endpoints(1) as (server,), routes_to([server], num_retries=2) as routes:
        server.answer = first([status(500), reset])
        assert await call(routes) == "fine"
        assert server.asked == 3
        server.answer = first([reset, status(503)])
        assert len(await chunks(routes)) == 4
        assert server.asked == 6


@pytest.mark.parametrize("retries", [0, 1, 4])
async def test_tries_are_bounded_and_the_last_answer_is_passed_on(retries: int) -> None:
    async with endpoints(2) as servers, routes_to(servers, num_retries=retries) as routes:
        for server in servers:
            server.answer = status(529)
        with pytest.raises(RequestError, match="answered 529") as caught:
            await call(routes)
        assert caught.value.status == 529
        assert sum(server.asked for server in servers) == retries + 1
        with pytest.raises(RequestError, match="answered 529"):
            await chunks(routes)
        assert sum(server.asked for server in servers) == 2 * (retries + 1)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 413, 422, 501])
async def test_what_is_the_request_s_fault_is_not_tried_again(code: int) -> None:
    async with endpoints(2) as servers, routes_to(servers) as routes:
        for server in servers:
            server.answer = status(code)
        for answer in (call(routes), chunks(routes)):
            with pytest.raises(RequestError) as caught:
                await answer
            assert caught.value.status == code
        assert sum(server.asked for server in servers) == 2
        assert _all_healthy(routes)


async def test_after_the_first_chunk_an_error_passes_on() -> None:
    async with endpoints(2) as servers, routes_to(servers) as routes:
        one, two = await order(routes, servers)
        one.answer = midway
        got: list[Any] = []
        with pytest.raises(RequestError) as caught:
            await _collect(routes, got)
        assert caught.value.status == 502
        assert len(got) == 1
        assert (one.asked, two.asked) == (1, 0)
        one.up = False
        assert await call(routes) == "fine"  # it is known to be ill
        assert (one.asked, two.asked) == (1, 1)


async def test_a_named_time_is_waited_for() -> None:
    async with endpoints(1) as (server,), routes_to([server]) as routes:
        server.answer = first([status(429, retry_after="1")])
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await call(routes) == "fine"
        assert loop.time() - began >= 1.0  # a lower bound: it must not ask earlier
        assert server.asked == 2


async def test_a_long_time_is_passed_on_to_the_caller() -> None:
    async with endpoints(1) as (server,), routes_to([server]) as routes:
        server.answer = status(429, retry_after="3600")
        with pytest.raises(RequestError) as caught:
            await call(routes)
        assert (caught.value.status, caught.value.retry_after, server.asked) == (429, 3600.0, 1)


async def test_a_busy_endpoint_is_left_alone_though_its_other_calls_end_well() -> None:
    async with endpoints(2) as servers, routes_to(servers) as routes:
        one, two = await order(routes, servers)
        one.answer = first([status(429, retry_after="20")])
        assert await call(routes) == "fine"
        for endpoint in routes.find("main").endpoints:
            endpoint.server.health.answered()
        assert await call(routes) == "fine"
        assert (one.asked, two.asked) == (1, 2)


async def test_a_failed_endpoint_comes_back_when_it_answers() -> None:
    async with endpoints(2) as servers, routes_to(servers) as routes:
        one, two = await order(routes, servers)
        one.answer, one.up = status(500), False
        assert await call(routes) == "fine"
        probed = one.probed
        await until(lambda: one.probed >= probed + 3)  # asked again and again, though no call comes
        assert await call(routes) == "fine"
        assert (one.asked, two.asked) == (1, 2)
        one.answer, one.up = whole, True
        await until(lambda: _all_healthy(routes))
        assert await call(routes) == "fine"
        assert (one.asked, two.asked) == (2, 2)


async def test_a_restarted_endpoint_comes_back() -> None:
    async with endpoints(1) as (server,), routes_to([server], num_retries=0) as routes:
        assert await call(routes) == "fine"
        await server.stop()
        with pytest.raises(RequestError, match="can't be reached"):
            await call(routes)
        await server.start()
        assert await call(routes) == "fine"  # ill, but there is no other


async def test_with_all_endpoints_ill_they_are_tried_all_the_same() -> None:
    async with endpoints(3) as servers, routes_to(servers) as routes:
        for server in servers:
            server.answer, server.up = status(500), False
        with pytest.raises(RequestError):
            await call(routes)
        assert [server.asked for server in servers] == [1, 1, 1]
        for ask in (call, chunks):
            for server in servers:
                server.answer = status(500)
            with pytest.raises(RequestError):
                await ask(routes)
            servers[1].answer = whole
            await ask(routes)
            before = [server.asked for server in servers]
            for number in range(10):  # it has answered, so it is well, whatever `/models` says
                await ask(routes, f"ro-{number}")
            assert [server.asked - was for server, was in zip(servers, before, strict=True)] == [0, 10, 0]


async def test_a_failure_in_this_process_is_not_tried_again() -> None:
    routes, backend = ModelRoutes(), LocalBackend()
    routes.set_backend("main", backend)
    backend.error = RequestError("diverged", status=500)
    with pytest.raises(RequestError, match="diverged"):
        await call(routes)
    backend.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        await call(routes)
    assert len(backend.bodies) == 2
    await routes.drain(timeout=10)


# -- who goes away ------------------------------------------------------------------------------------------------


async def test_a_caller_that_goes_away_ends_the_call_at_the_endpoint() -> None:
    async with endpoints(1) as (server,), routes_to([server]) as routes:
        server.answer = hang
        task = asyncio.create_task(call(routes))
        await until(lambda: server.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: server.running == 0)
        await routes.drain(timeout=10)
        assert _all_healthy(routes)


async def test_a_stream_that_is_left_ends_at_the_endpoint() -> None:
    async with endpoints(1) as (server,), routes_to([server]) as routes:
        async with aclosing(routes.find("main").stream("chat", STREAMED, rollout_id=None)) as parts:
            await anext(parts)
        await routes.drain(timeout=10)
        await until(lambda: server.running == 0)
        assert _all_healthy(routes)


# -- limits -------------------------------------------------------------------------------------------------------


async def test_the_limit_of_a_model_holds_and_all_are_served() -> None:
    async with endpoints(1) as (server,), routes_to([server], {"max_parallel_requests": 3}) as routes:
        running = together([server], 3)
        answers = await asyncio.gather(*(call(routes, f"ro-{index}") for index in range(40)))
        assert answers == ["fine"] * 40
        assert max(running) == 3


async def test_the_limit_of_the_gateway_holds_over_all_models() -> None:
    async with endpoints(2) as (one, two):
        routes = ModelRoutes(max_parallel_requests=4)
        routes.set_model_list([one.entry("one"), two.entry("two")])
        calls = [routes.find(name).call("chat", BODY, rollout_id=None) for name in ["one", "two"] * 20]
        running = together([one, two], 4)
        assert [text(reply) for reply in await asyncio.gather(*calls)] == ["fine"] * 40
        assert max(running) == 4
        await routes.close()


async def test_a_full_endpoint_sends_rollouts_on_to_the_next() -> None:
    async with endpoints(2) as servers, routes_to(servers, {"max_parallel_requests": 1}) as routes:
        one, two = await order(routes, servers)
        one.answer = hang
        held = asyncio.create_task(call(routes))
        await until(lambda: one.running == 1)
        assert await call(routes) == "fine"
        assert (one.asked, two.asked) == (1, 1)
        held.cancel()


async def test_too_many_callers_are_told_to_come_back() -> None:
    async with endpoints(1) as (server,), routes_to([server], max_parallel_requests=1, max_waiting=2) as routes:
        release = asyncio.Event()
        server.answer = when(release)
        tasks = [asyncio.create_task(call(routes)) for _ in range(3)]
        await until(lambda: server.running == 1)
        with pytest.raises(RequestError, match="the gateway is busy: 2 callers wait already") as caught:
            await call(routes)
        assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
        release.set()
        assert await asyncio.gather(*tasks) == ["fine"] * 3


async def test_who_waits_too_long_is_told_so_and_is_not_tried_elsewhere() -> None:
    async with endpoints(1) as (server,), routes_to([server], max_parallel_requests=1, queue_timeout=0.05) as routes:
        server.answer = hang
        held = asyncio.create_task(call(routes))
        await until(lambda: server.running == 1)
        with pytest.raises(RequestError, match=r"no turn came within 0.05 s \(`max_parallel_requests` 1\)") as caught:
            await call(routes)
        assert caught.value.status == 429
        assert server.asked == 1
        held.cancel()


async def test_who_the_gateway_refuses_holds_no_turn_at_the_endpoint() -> None:
    async with endpoints(2) as (one, two):
        routes = ModelRoutes(max_parallel_requests=1, max_waiting=0)
        routes.set_model_list([one.entry("one", max_parallel_requests=1, rpm=1), two.entry("main")])
        two.answer = hang
        held = asyncio.create_task(call(routes))
        await until(lambda: two.running == 1)
        for _ in range(3):
            with pytest.raises(RequestError, match="the gateway is busy: 0 callers wait already"):
                await routes.find("one").call("chat", BODY, rollout_id=None)
        held.cancel()
        await asyncio.wait([held])
        assert text(await routes.find("one").call("chat", BODY, rollout_id=None)) == "fine"
        await routes.close()


# -- dialects -----------------------------------------------------------------------------------------------------


async def test_a_pool_speaks_what_all_its_endpoints_speak() -> None:
    entry = HttpEndpoint().entry
    routes = ModelRoutes()
    spoken: list[list[Dialect]] = [["chat", "responses", "messages"], ["chat", "messages", "embeddings"]]
    routes.set_model_list([entry(speaks=dialects, model=f"m{at}") for at, dialects in enumerate(spoken)])
    assert routes.find("main").speaks == {"chat", "messages"}
    with pytest.raises(RequestError, match="no longer takes completions") as caught:
        await routes.find("main").call("completions", BODY, rollout_id=None)
    assert caught.value.status == 503
