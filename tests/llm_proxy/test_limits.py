"""Limits on calls at once and calls a minute: who is let through, in which order, who is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.llm_proxy import limits
from agentlightning.llm_proxy.limits import Limiter, Limits, QueueError
from agentlightning.types import ConfigError

from .conftest import until


def limiter(parallel: int | None = None, rpm: int | None = None, **options: Any) -> Limiter:
    return Limiter("x", Limits(parallel, rpm), **options)


async def queue(one: Limiter, names: str, into: list[str]) -> list[asyncio.Task[None]]:
    async def wait(name: str) -> None:
        await one.acquire()
        into.append(name)

    tasks: list[asyncio.Task[None]] = []
    for name in names:
        tasks.append(asyncio.create_task(wait(name)))
        await asyncio.sleep(0)
    return tasks


async def test_turns_come_in_order_of_arrival() -> None:
    one, order = limiter(2), list[str]()
    tasks = await queue(one, "abcdef", order)
    assert order == ["a", "b"]
    for _ in range(4):
        one.release()
    await asyncio.gather(*tasks)
    assert order == list("abcdef")
    assert not one.free
    one.release()
    assert one.free


async def test_who_goes_away_leaves_the_queue_and_takes_no_turn() -> None:
    one, order = limiter(1), list[str]()
    tasks = await queue(one, "abcd", order)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert one.waiting == 2
    one.release()  # c has its turn now, and goes away in the same moment
    tasks[2].cancel()
    await asyncio.gather(tasks[0], tasks[3], return_exceptions=True)
    assert order == ["a", "d"]
    one.release()
    assert one.free


async def test_a_full_queue_refuses() -> None:
    one = limiter(1, max_waiting=1)
    tasks = await queue(one, "ab", [])
    with pytest.raises(QueueError, match="x is busy: 1 callers wait already") as caught:
        await one.acquire()
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    one.release()
    await asyncio.gather(*tasks)


async def test_who_waited_too_long_is_refused_and_the_queue_goes_on() -> None:
    one = limiter(1, queue_timeout=0.02)
    await one.acquire()
    with pytest.raises(QueueError, match=r"no turn came within 0.02 s \(`max_parallel_requests` 1\); try again later"):
        await one.acquire()
    assert one.waiting == 0
    one.release()
    await one.acquire()


async def test_calls_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_WINDOW_S", 0.1)
    one, loop = limiter(rpm=3), asyncio.get_running_loop()
    begun: list[float] = []

    async def call() -> None:
        begun.append(await one.acquire())
        one.release()

    await asyncio.gather(*(call() for _ in range(10)))
    assert begun == sorted(begun)
    assert all(later - earlier >= 0.1 for earlier, later in zip(begun, begun[3:], strict=False))
    assert loop.time() - begun[0] >= 0.3


async def test_a_turn_that_was_not_used_does_not_count() -> None:
    one = limiter(rpm=1, queue_timeout=0.02)
    one.give_back(await one.acquire())
    await one.acquire()
    one.release()
    with pytest.raises(QueueError) as caught:
        await one.acquire()
    assert caught.value.retry_after is not None
    assert 1 < caught.value.retry_after <= 60


async def test_other_limits_reach_those_who_wait() -> None:
    one, order = limiter(1), list[str]()
    tasks = await queue(one, "abcd", order)
    await asyncio.to_thread(one.change, Limits(3))
    await until(lambda: order == ["a", "b", "c"])
    one.change(Limits())
    await asyncio.gather(*tasks)
    one.change(Limits(1))
    assert not one.free
    for _ in "abcd":
        assert not one.free
        one.release()
    assert one.free


async def test_a_limiter_serves_one_loop_after_another() -> None:
    one = limiter(1, rpm=1)

    async def waits() -> None:
        await one.acquire()
        try:
            async with asyncio.timeout(0.01):
                await one.acquire()
        except TimeoutError:
            one.release()

    await asyncio.to_thread(asyncio.run, waits())
    one.change(Limits(1))
    await asyncio.to_thread(asyncio.run, waits())
    assert one.free


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "3"])
@pytest.mark.parametrize("field", ["max_parallel_requests", "rpm"])
def test_limits_that_let_nobody_through_are_refused(field: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{field}` must be a whole number from 1 up"):
        Limits(**{field: wrong})


@settings(max_examples=60, deadline=None)
@given(
    parallel=st.integers(1, 4),
    steps=st.lists(st.sampled_from(["come", "end", "leave", "unused", "tick"]), max_size=60),
)
def test_nobody_is_lost_and_nobody_too_many(parallel: int, steps: list[str]) -> None:
    """Against a plain list of who should be in."""

    async def run() -> None:
        one = limiter(parallel)
        inside: list[int] = []
        turns: dict[int, float] = {}
        queue: list[int] = []
        tasks: dict[int, asyncio.Task[None]] = {}

        async def caller(name: int) -> None:
            turns[name] = await one.acquire()
            inside.append(name)

        for number, step in enumerate(steps):
            if step == "come":
                tasks[number] = asyncio.create_task(caller(number))
                queue.append(number)
                await asyncio.sleep(0)
            elif step in ("end", "unused") and inside:
                name = inside.pop(0)
                one.release() if step == "end" else one.give_back(turns[name])
            elif step == "leave":
                name = next((name for name in reversed(queue) if not tasks[name].done()), None)
                if name is not None:
                    tasks[name].cancel()
                    queue.remove(name)
            else:
                await asyncio.sleep(0.0005)
            assert len(inside) <= parallel
        for _ in range(len(steps) + 1):
            await asyncio.sleep(0)
            while inside:
                inside.pop()
                one.release()
        assert list(turns) == [name for name in queue if name in turns]
        assert set(turns) == set(queue)
        assert (one.waiting, one.free) == (0, True)

    asyncio.run(run())
