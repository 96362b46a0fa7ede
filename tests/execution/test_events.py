"""The stop signal wakes threads and tasks of any loop."""

import asyncio
import threading

from agentlightning.execution import ThreadingEvent


async def test_a_thread_wakes_the_tasks_of_several_loops():
    event = ThreadingEvent()
    waiting = threading.Barrier(3)
    woken: list[str] = []

    async def wait(name: str) -> None:
        asyncio.get_running_loop().call_soon(waiting.wait)
        await event.wait_async()
        woken.append(name)

    threads = [threading.Thread(target=asyncio.run, args=(wait(name),)) for name in "ab"]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(waiting.wait)
    event.set()
    for thread in threads:
        await asyncio.to_thread(thread.join, 30)
    assert sorted(woken) == ["a", "b"]
    assert event.wait(0)


async def test_a_set_event_waits_for_nobody_until_it_is_cleared():
    event = ThreadingEvent()
    event.set()
    event.set()
    await event.wait_async()
    assert event.is_set()
    event.clear()
    assert not event.is_set()
    assert not event.wait(0)


async def test_a_cancelled_wait_leaves_nothing_behind():
    event = ThreadingEvent()
    task = asyncio.create_task(event.wait_async())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert event._waiting == set()
    event.set()
