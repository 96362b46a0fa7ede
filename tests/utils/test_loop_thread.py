"""An event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agentlightning.utils.loop_thread import LoopThread


async def name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


async def fail() -> None:
    raise KeyError("mine")


def test_work_runs_there_and_its_result_or_error_comes_back():
    thread = LoopThread("mine")
    assert thread.run(name()) == "mine"
    with pytest.raises(KeyError, match="mine"):
        thread.run(fail())
    thread.stop()


async def test_a_running_loop_is_no_hindrance():
    thread = LoopThread("mine")
    assert thread.run(name()) == "mine"
    thread.stop()


def test_stop_cancels_what_still_runs():
    ended = threading.Event()

    async def begin() -> asyncio.Task[None]:
        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        return task

    thread = LoopThread("mine")
    task = thread.run(begin())
    thread.stop()
    assert ended.is_set()
    assert task.cancelled()
