"""The gate: calls wait while it is closed, whoever closes it, and `drained` says when nobody is inside."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agentlightning.llm_proxy.gate import Gate

from .conftest import until


async def test_calls_wait_in_order_while_it_is_closed() -> None:
    gate, order = Gate(), list[int]()
    gate.pause()

    async def call(number: int) -> None:
        await gate.opened("m")
        order.append(number)

    tasks = [asyncio.create_task(call(number)) for number in range(50)]
    await asyncio.sleep(0.01)
    assert order == []
    assert gate.paused
    threading.Thread(target=gate.resume).start()
    await asyncio.gather(*tasks)
    assert order == list(range(50))
    assert not gate.paused


async def test_one_model_and_all_are_paused_apart() -> None:
    gate = Gate()
    gate.pause("a")
    assert (gate.enter("a"), gate.enter("b"), gate.paused) == (False, True, False)
    gate.pause()
    assert not gate.enter("b")
    gate.resume()
    assert (gate.enter("a"), gate.enter("b")) == (False, True)
    gate.pause()
    gate.resume("a")
    assert not gate.enter("a")
    gate.resume()
    assert gate.enter("a")


async def test_resuming_one_model_wakes_only_its_calls() -> None:
    gate = Gate()
    for model in "ab":
        gate.pause(model)
    waits = {model: asyncio.create_task(gate.opened(model)) for model in "ab"}
    await asyncio.sleep(0)
    gate.resume("a")
    await waits["a"]
    assert not waits["b"].done()
    gate.resume("b")
    await waits["b"]


async def test_who_is_let_in_too_late_waits_again() -> None:
    gate = Gate()
    gate.pause()
    task = asyncio.create_task(gate.opened("m"))
    await asyncio.sleep(0)
    gate.resume()
    gate.pause()
    await asyncio.sleep(0.01)
    assert not task.done()
    gate.resume()
    await task


async def test_who_goes_away_is_forgotten() -> None:
    gate = Gate()
    gate.pause()
    tasks = [asyncio.create_task(gate.opened("m")) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert len(gate._waiting) == 2  # pyright: ignore[reportPrivateUsage]
    gate.resume()
    await asyncio.gather(tasks[0], tasks[2])
    assert not gate._waiting  # pyright: ignore[reportPrivateUsage]


async def test_drained_waits_for_those_inside_in_any_loop() -> None:
    gate = Gate()
    await gate.drained()
    for model in "aab":
        assert gate.enter(model)
    done: list[str] = []

    def elsewhere(model: str | None) -> None:
        asyncio.run(gate.drained(model))
        done.append(model or "all")

    threads = [threading.Thread(target=elsewhere, args=(model,)) for model in ("a", "b", None)]
    for thread in threads:
        thread.start()
    await until(lambda: len(gate._draining) == 3)  # pyright: ignore[reportPrivateUsage]
    gate.leave("b")
    await until(lambda: done == ["b"])
    gate.leave("a")
    assert (gate.inside("a"), gate.inside()) == (1, 1)
    gate.leave("a")
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(done) == ["a", "all", "b"]


async def test_who_gives_up_draining_does_no_harm() -> None:
    gate = Gate()
    gate.enter("a")
    task = asyncio.create_task(gate.drained())
    other = asyncio.create_task(gate.drained())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.leave("a")
    await other


async def test_nobody_is_inside_after_pause_and_drain_whatever_the_threads_do() -> None:
    """Another thread closes, empties and opens it, again and again, while calls pass; inside it must be alone."""
    gate, alone, seen = Gate(), threading.Event(), list[bool]()
    stop = threading.Event()

    def trainer() -> None:
        for _ in range(100):
            gate.pause()
            asyncio.run(gate.drained())
            alone.set()
            seen.append(gate.inside() == 0)
            alone.clear()
            gate.resume()
        stop.set()

    async def agent() -> int:
        calls = 0
        while not stop.is_set():
            await gate.opened("m")
            if gate.enter("m"):
                seen.append(not alone.is_set())
                await asyncio.sleep(0)
                seen.append(not alone.is_set())
                gate.leave("m")
                calls += 1
        return calls

    agents = [asyncio.create_task(agent()) for _ in range(5)]
    await asyncio.to_thread(trainer)
    assert all(calls > 0 for calls in await asyncio.gather(*agents))
    assert all(seen)
