"""Waiting without losing a result."""

from __future__ import annotations

import asyncio

from agentlightning.runner.waiting import cancelled


async def test_the_result_of_a_finished_task_is_not_lost_to_a_cancellation():
    async def take() -> str:
        return "a rollout"

    async def runner() -> str | None:
        return await cancelled(task)

    task = asyncio.create_task(take())
    await task
    waiting = asyncio.create_task(runner())
    await asyncio.sleep(0)
    waiting.cancel()
    assert await waiting == "a rollout"
