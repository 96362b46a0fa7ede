"""Calling an agent method: threads, tasks, timeouts, and what an agent must not do to the runner."""

import asyncio
import contextvars
import sys
import threading

import pytest

from agentlightning.execution.host import install_host
from agentlightning.runner.calls import AgentExit, AgentTimeout, call_agent

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name")


async def test_a_sync_function_runs_in_a_thread_of_its_own_with_the_callers_context():
    NAME.set("caller")

    def agent(a: int, b: int) -> tuple[int, str, bool]:
        return a + b, NAME.get(), threading.current_thread() is threading.main_thread()

    assert await call_agent(agent, 1, 2) == (3, "caller", False)


async def test_an_async_function_runs_on_this_loop():
    loop = asyncio.get_running_loop()

    async def agent() -> bool:
        return asyncio.get_running_loop() is loop

    assert await call_agent(agent)


async def test_exceptions_come_through():
    def sync() -> None:
        raise KeyError("sync")

    async def coroutine() -> None:
        raise KeyError("async")

    for agent in (sync, coroutine):
        with pytest.raises(KeyError):
            await call_agent(agent)


async def test_an_agents_own_timeout_error_is_not_ours():
    async def agent() -> None:
        raise TimeoutError("the agent's own")

    with pytest.raises(TimeoutError, match="the agent's own") as caught:
        await call_agent(agent, timeout=60)
    assert not isinstance(caught.value, AgentTimeout)


async def test_a_slow_thread_is_abandoned():
    release, ended = threading.Event(), threading.Event()

    def agent() -> None:
        release.wait()
        ended.set()

    with pytest.raises(AgentTimeout, match=r"`timeout_seconds`=0.01; its code can't be stopped within this process"):
        await call_agent(agent, timeout=0.01)
    release.set()
    assert await asyncio.to_thread(ended.wait, 30)


class Process:
    """The host of a runner process, without the process."""

    worker_name = "here-1-0"

    def __init__(self) -> None:
        self.told: list[str] = []

    def due(self, attempt_id: str, seconds: float) -> None: ...

    def ended(self, attempt_id: str) -> None: ...

    def abandoned(self) -> None:
        self.told.append("abandoned")


async def test_a_runner_process_is_told_of_code_that_goes_on_and_only_of_that():
    release, process = threading.Event(), Process()

    def hangs() -> None:
        release.wait()

    async def stops() -> None:
        await asyncio.Event().wait()

    install_host(process)
    try:
        with pytest.raises(AgentTimeout) as stopped:
            await call_agent(stops, timeout=0.01)
        assert process.told == []
        with pytest.raises(AgentTimeout, match="so this runner process is replaced"):
            await call_agent(hangs, timeout=0.01)
        assert process.told == ["abandoned"]
    finally:
        install_host(None)
        release.set()
    assert str(stopped.value) == "the agent took longer than `timeout_seconds`=0.01"


async def test_a_slow_task_is_cancelled_and_may_clean_up():
    cleaned: list[bool] = []

    async def agent() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(AgentTimeout):
        await call_agent(agent, timeout=0.01)
    assert cleaned == [True]


async def test_a_task_that_swallows_its_cancellation_is_abandoned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentlightning.runner.calls.CANCEL_GRACE_S", 0.01)
    release = asyncio.Event()

    async def agent() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(AgentTimeout):
        await call_agent(agent, timeout=0.01)
    release.set()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_agent_can_not_end_the_process(error: BaseException):
    def sync() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    for agent in (sync, coroutine):
        with pytest.raises(AgentExit, match="an agent must return, not end the process"):
            await call_agent(agent)
    with pytest.raises(AgentExit, match=r"SystemExit\('stop'\)"):
        await call_agent(sys.exit, "stop")


async def test_an_agent_that_cancels_itself_fails():
    async def agent() -> None:
        raise asyncio.CancelledError

    with pytest.raises(AgentExit, match="nobody had cancelled it"):
        await call_agent(agent)


async def test_cancelling_the_caller_cancels_the_agent():
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def agent() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    caller = asyncio.create_task(call_agent(agent))
    await started.wait()
    caller.cancel()
    await asyncio.wait({caller})
    assert caller.cancelled()
    assert cancelled.is_set()
