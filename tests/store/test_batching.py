"""Calls that are made together go together; a call by itself waits for nobody."""

from __future__ import annotations

import asyncio

from agentlightning.store.batch import read_calls, write_answers
from agentlightning.store.client.batching import Batcher, Reply, Request


class Echo:
    """A server of batches: each call gets its own path back."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, request: Request) -> Reply:
        self.requests += 1
        await asyncio.sleep(0)
        if not request.body:
            return Reply(200, request.path.encode())
        return Reply(200, write_answers((200, frame.path.encode()) for frame in read_calls(request.body)))


async def _ask(batcher: Batcher, name: str, times: int) -> None:
    for number in range(times):
        assert (await batcher.send(Request("GET", f"/{name}/{number}"))).body == f"/{name}/{number}".encode()


async def test_callers_that_ask_again_at_once_stay_together():
    echo = Echo()
    batcher = Batcher(echo)
    await asyncio.gather(*(_ask(batcher, str(caller), 200) for caller in range(16)))
    assert echo.requests < 300  # 201, and some where the loop was late; 400 if whoever came first went alone each time


async def test_one_caller_after_the_other_goes_alone():
    echo = Echo()
    await _ask(Batcher(echo), "one", 50)
    assert echo.requests == 50


async def test_more_calls_than_a_request_takes():
    echo = Echo()
    batcher = Batcher(echo)
    await asyncio.gather(*(_ask(batcher, str(caller), 3) for caller in range(300)))
    assert echo.requests < 300


async def test_callers_that_gave_up_are_not_asked_for():
    echo = Echo()
    batcher = Batcher(echo)
    asking = [asyncio.ensure_future(_ask(batcher, str(caller), 1)) for caller in range(100)]
    await asyncio.sleep(0)
    for task in asking[1:]:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await _ask(batcher, "later", 1)
    assert echo.requests == 2
