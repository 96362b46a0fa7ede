"""Rollouts stay where they are, lists change under load, calls wait for new weights."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.llm_proxy.endpoint import Server
from agentlightning.llm_proxy.routes import ModelRoutes
from agentlightning.types import ChatReply, ConfigError, RequestError

from .conftest import LocalBackend, until
from .endpoints import BODY, HttpEndpoint, endpoints, hang, status, when, whole

ROLLOUTS = [f"ro-{number}" for number in range(2000)]


async def call(routes: ModelRoutes, rollout_id: str | None = None, model: str = "main") -> ChatReply:
    return await routes.find(model).call("chat", BODY, rollout_id=rollout_id)


# -- rollouts keep their endpoint ---------------------------------------------------------------------------------


def server(name: str) -> Server:
    return Server(LocalBackend(), name, remote=False)


def assigned(servers: dict[str, Server], weights: dict[str, float], rollout: str) -> str:
    return max(servers, key=lambda name: servers[name].pull(rollout, weights.get(name, 1.0)))


@settings(max_examples=40, deadline=None)
@given(st.sets(st.text(max_size=30), min_size=2, max_size=8), st.data())
def test_only_the_share_of_what_goes_moves(names: set[str], data: st.DataObject) -> None:
    """For any set of endpoints and weights: removing one moves its own rollouts and no other, and adding it back
    takes back exactly those."""
    servers = {name: server(name) for name in sorted(names)}
    weights = {name: data.draw(st.floats(0.1, 10)) for name in servers}
    gone = data.draw(st.sampled_from(sorted(servers)))
    left = {name: one for name, one in servers.items() if name != gone}
    for rollout in ROLLOUTS[:300]:
        before = assigned(servers, weights, rollout)
        after = assigned(left, weights, rollout)
        assert after == before or before == gone
        assert assigned({name: server(name) for name in servers}, weights, rollout) == before


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_rollouts_are_shared_by_weight(shares: list[int]) -> None:
    servers = {str(number): server(f"http://host-{number}/v1") for number in range(len(shares))}
    weights = {str(number): float(share) for number, share in enumerate(shares)}
    counted = Counter(assigned(servers, weights, rollout) for rollout in ROLLOUTS)
    for name, weight in weights.items():
        part = weight / sum(shares)
        spread = (len(ROLLOUTS) * part * (1 - part)) ** 0.5
        assert abs(counted[name] - len(ROLLOUTS) * part) <= 5 * spread + 1


async def test_all_calls_of_a_rollout_go_to_one_endpoint() -> None:
    async with endpoints(3) as servers:
        routes = ModelRoutes()
        routes.set_model_list([one.entry() for one in servers])
        for rollout in ROLLOUTS[:30]:
            before = [one.asked for one in servers]
            for _ in range(3):
                await call(routes, rollout)
            assert sorted(one.asked - was for one, was in zip(servers, before, strict=True)) == [0, 0, 3]
        assert all(one.asked > 0 for one in servers)
        await routes.close()


async def test_a_new_key_or_another_order_moves_no_rollout() -> None:
    entries = [HttpEndpoint().entry(model=f"m{number}") for number in range(4)]
    routes = ModelRoutes()

    def where() -> list[str]:
        found = routes.find("main").endpoints
        return [min(found, key=lambda one: one.rank(rollout)).server.identity for rollout in ROLLOUTS[:100]]

    routes.set_model_list(entries)
    before = where()
    changed = [{**entry, "litellm_params": {**entry["litellm_params"], "api_key": "new"}} for entry in entries]
    routes.set_model_list(changed[::-1])
    assert where() == before
    assert len(set(before)) == 4


async def test_calls_of_nobody_go_to_the_least_busy() -> None:
    async with endpoints(3) as servers:
        routes = ModelRoutes()
        routes.set_model_list([one.entry(weight=weight) for one, weight in zip(servers, (1, 1, 2), strict=True)])
        release = asyncio.Event()
        for one in servers:
            one.answer = when(release)
        tasks = list[asyncio.Task[ChatReply]]()
        for number in range(8):
            tasks.append(asyncio.create_task(call(routes)))
            await until(lambda number=number: sum(one.running for one in servers) == number + 1)
        assert [one.running for one in servers] == [2, 2, 4]
        release.set()
        await asyncio.gather(*tasks)
        await routes.close()


# -- changes while running ----------------------------------------------------------------------------------------


def test_an_unknown_model_names_those_that_are_served() -> None:
    routes = ModelRoutes()
    routes.set_model_list([HttpEndpoint().entry("first")])
    routes.set_backend("own", LocalBackend())
    with pytest.raises(RequestError, match="no model `x` here; served models: `own`, `first`") as caught:
        routes.find("x")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


async def test_a_backend_goes_before_the_list_and_gives_way_to_it_again() -> None:
    async with endpoints(1) as (one,):
        routes, backend = ModelRoutes(), LocalBackend()
        routes.set_model_list([one.entry()])
        routes.set_backend("main", backend)
        await call(routes)
        assert (len(backend.bodies), one.asked) == (1, 0)
        routes.set_backend("main", None)
        await call(routes)
        assert (len(backend.bodies), one.asked) == (1, 1)
        await routes.close()


async def test_an_endpoint_that_stays_keeps_connections_health_and_limits() -> None:
    async with endpoints(2) as (one, two):
        routes = ModelRoutes(num_retries=0)
        routes.set_model_list([one.entry(max_parallel_requests=1)])
        await call(routes)
        (before,) = routes.find("main").endpoints
        await asyncio.to_thread(routes.set_model_list, [two.entry(), one.entry(max_parallel_requests=5)])
        after = routes.find("main").endpoints[1]
        assert (after.server, after.limiter) == (before.server, before.limiter)
        assert one.connections == 1
        one.answer, one.up = status(500), False
        for rollout in ROLLOUTS[:30]:
            with contextlib.suppress(RequestError):
                await call(routes, rollout)
        assert before.server.health.state == 1
        routes.set_model_list([one.entry("renamed"), one.entry("renamed")])
        same, copy = routes.find("renamed").endpoints
        assert same.server is before.server
        assert same.server.health.state == 1
        assert copy.server is not before.server
        await routes.close()
        await until(lambda: one.connections == 0)


async def test_an_endpoint_that_goes_is_closed_after_its_last_call() -> None:
    async with endpoints(2) as (one, two):
        routes = ModelRoutes()
        routes.set_model_list([one.entry()])
        release = asyncio.Event()
        one.answer = when(release)
        running = asyncio.create_task(call(routes))
        await until(lambda: one.running == 1)
        await asyncio.to_thread(routes.set_model_list, [two.entry()])
        await call(routes)
        assert (one.running, one.connections, two.asked) == (1, 1, 1)
        release.set()
        assert (await running).response["choices"][0]["message"]["content"] == "fine"
        await until(lambda: one.connections == 0)
        await asyncio.to_thread(routes.set_model_list, [])
        await until(lambda: two.connections == 0)


async def test_a_backend_under_two_names_is_not_closed_with_the_first() -> None:
    class Closing(LocalBackend):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    routes, backend = ModelRoutes(), Closing()
    for name in ("one", "two"):
        routes.set_backend(name, backend)
        await call(routes, model=name)
    routes.set_backend("one", None)
    await asyncio.sleep(0.01)
    assert backend.closed == 0
    routes.set_backend("two", None)
    routes.set_backend("one", backend)
    await asyncio.sleep(0.01)
    assert backend.closed == 0
    await call(routes, model="one")
    routes.set_backend("one", None)
    await until(lambda: backend.closed == 1)


async def test_a_list_that_changes_all_the_time_loses_no_call() -> None:
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(endpoints(4))
        routes = ModelRoutes(max_parallel_requests=8)
        lists = [[one.entry() for one in servers if one is not gone] for gone in servers]
        routes.set_model_list(lists[0])
        stop = threading.Event()

        def change() -> None:
            number = 0
            while not stop.wait(0.002):
                number += 1
                routes.set_model_list(lists[number % 4])

        thread = threading.Thread(target=change)
        thread.start()
        try:
            replies = await asyncio.gather(*(call(routes, rollout) for rollout in ROLLOUTS[:600]))
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)
        assert len(replies) == 600
        assert sum(one.asked for one in servers) == 600  # none was even tried twice
        await routes.close()
        await until(lambda: all(one.connections == 0 for one in servers))


async def test_a_model_that_goes_while_calls_wait_for_it() -> None:
    async with endpoints(1) as (one,):
        routes = ModelRoutes()
        routes.set_model_list([one.entry()])
        routes.pause()
        waiting = asyncio.create_task(call(routes))
        await asyncio.sleep(0.01)
        routes.set_model_list([])
        routes.resume()
        with pytest.raises(RequestError, match="model `main` is not served any more") as caught:
            await waiting
        assert caught.value.status == 503


@pytest.mark.parametrize("broken", [{"model_name": "main"}, {"model_name": "a", "litellm_params": {"model": "m"}}])
async def test_a_list_that_can_not_be_used_changes_nothing(broken: dict[str, Any]) -> None:
    routes = ModelRoutes()
    routes.set_model_list([HttpEndpoint().entry("old", rpm=1)])
    (before,) = routes.find("old").endpoints
    with pytest.raises(ConfigError, match=r"`model_list\[1\]"):
        routes.set_model_list([HttpEndpoint().entry("old", rpm=7), broken])
    assert (routes.names, routes.find("old").endpoints) == (["old"], (before,))


@pytest.mark.parametrize("wrong", [{"num_retries": -1}, {"max_waiting": -1}, {"queue_timeout": 0}, {"rpm": 0}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}` must be"):
        ModelRoutes(**wrong)


async def test_it_may_be_closed_and_used_again() -> None:
    async with endpoints(2) as (one, two):
        routes = ModelRoutes()
        routes.set_model_list([one.entry(), two.entry()])
        one.answer = status(500)
        one.up = False
        for _ in range(2):
            for rollout in ROLLOUTS[:4]:
                await call(routes, rollout)
            await routes.close()
            await until(lambda: one.connections + two.connections == 0)
            assert all(endpoint.server.health.state == 0 for endpoint in routes.find("main").endpoints)


# -- pause, drain, resume -----------------------------------------------------------------------------------------


async def test_weights_change_while_agents_call() -> None:
    """A trainer in its own thread pauses, drains, changes the weights and resumes, again and again. No call fails, and
    none runs while the weights change."""
    routes = ModelRoutes(max_parallel_requests=4)
    changing = threading.Event()
    torn: list[bool] = []

    class Weights(LocalBackend):
        async def call(self, dialect: Any, body: Any) -> ChatReply:
            torn.append(changing.is_set())
            await asyncio.sleep(0.0005)
            torn.append(changing.is_set())
            return await super().call(dialect, body)

    routes.set_backend("main", Weights())
    done = threading.Event()

    def trainer() -> None:
        for _ in range(25):
            routes.pause()
            asyncio.run(routes.drain(timeout=30))
            changing.set()
            time.sleep(0.003)
            changing.clear()
            routes.resume()
        done.set()

    async def agent(rollout_id: str) -> int:
        calls = 0
        while not done.is_set() or calls < 5:
            await call(routes, rollout_id)
            calls += 1
        return calls

    agents = [asyncio.create_task(agent(rollout)) for rollout in ROLLOUTS[:20]]
    await asyncio.to_thread(trainer)
    calls = await asyncio.gather(*agents)
    assert sum(calls) * 2 == len(torn)
    assert not any(torn)


async def test_calls_that_wait_for_a_turn_do_not_hold_up_a_drain_and_do_not_fail() -> None:
    async with endpoints(1) as (one,):
        routes = ModelRoutes(max_parallel_requests=1, queue_timeout=0.1)
        routes.set_model_list([one.entry()])
        release = asyncio.Event()
        one.answer = when(release)
        tasks = [asyncio.create_task(call(routes)) for _ in range(5)]
        await until(lambda: one.running == 1)
        routes.pause()
        assert routes.paused
        with pytest.raises(TimeoutError, match=r"1 calls still run after 0.01 s"):
            await routes.drain(timeout=0.01)
        await asyncio.sleep(0.15)  # longer than a call may wait for its turn: a pause is not the caller's fault
        release.set()
        await routes.drain(timeout=30)
        assert (one.asked, one.running, sum(task.done() for task in tasks)) == (1, 0, 1)
        routes.resume()
        await asyncio.gather(*tasks)
        assert one.asked == 5
        await routes.close()


async def test_one_model_is_paused_and_drained_alone() -> None:
    async with endpoints(2) as (one, two):
        routes = ModelRoutes(max_parallel_requests=2)
        routes.set_model_list([one.entry("a"), two.entry("b")])
        two.answer = hang
        other = asyncio.create_task(call(routes, model="b"))
        await until(lambda: two.running == 1)
        routes.pause("a")
        assert not routes.paused
        await routes.drain(timeout=30, model="a")
        waiting = [asyncio.create_task(call(routes, model="a")) for _ in range(5)]
        two.answer = whole
        await call(routes, model="b")  # calls that wait for `a` hold none of the gateway's turns
        assert one.asked == 0
        waiting[0].cancel()
        routes.resume("a")
        await asyncio.gather(*waiting[1:])
        assert one.asked == 4
        other.cancel()
        await routes.close()
