"""Calls one agent method, sync or async, so that nothing it does can harm the runner.

A sync agent has a daemon thread for itself, with the caller's context variables. A thread can't be killed: at a
timeout it is abandoned, its result ignored and its later spans dropped; being a daemon it does not keep the program
alive. A runner process is told, finishes what else it does and is replaced (`execution.host`), which ends the thread
too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentlightning.execution.host import host

from .threads import run_in_thread

CANCEL_GRACE_S = 1.0
"""How long a cancelled async agent may take to clean up before its attempt ends without it."""


class AgentTimeout(TimeoutError):
    """The agent took longer than the rollout's `timeout_seconds`."""


class AgentExit(RuntimeError):
    """The agent tried to end the process or cancelled itself."""


@dataclass(slots=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


async def call_agent(function: Callable[..., Any], *args: Any, timeout: float | None = None) -> Any:
    """What `function(*args)` returns.

    Args:
        function: A coroutine function (a task of its own) or any other callable (a thread of its own).
        args: Its arguments.
        timeout: Seconds; `None`: no limit.

    Raises:
        AgentTimeout: it takes longer. An async agent is cancelled, a thread is abandoned.
        AgentExit: it raises `SystemExit`, `KeyboardInterrupt` or a `CancelledError` of its own.
        Exception: whatever else it raises.
    """
    if inspect.iscoroutinefunction(function):
        work: asyncio.Future[_Outcome] = asyncio.create_task(_awaited(function, args))
    else:
        work = _threaded(function, args)
    try:
        done, _ = await asyncio.wait({work}, timeout=timeout)
    except asyncio.CancelledError:
        await _abandon(work)
        raise
    if not done:
        goes_on = await _abandon(work)
        raise AgentTimeout(f"the agent took longer than `timeout_seconds`={timeout:g}{_fate(goes_on)}")
    if work.cancelled():
        raise AgentExit("the agent raised `asyncio.CancelledError` though nobody had cancelled it")
    return _unwrap(work.result())


def _unwrap(outcome: _Outcome) -> Any:
    error = outcome.error
    if error is None:
        return outcome.value
    if isinstance(error, Exception):
        raise error
    raise AgentExit(f"the agent raised `{error!r}`; an agent must return, not end the process") from error


async def _awaited(function: Callable[..., Any], args: tuple[Any, ...]) -> _Outcome:
    try:
        return _Outcome(await function(*args))
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  # an agent's failure is data; a `SystemExit` would end the loop
        return _Outcome(error=error)


def _threaded(function: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[_Outcome]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Outcome] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            outcome = _Outcome(context.run(function, *args))
        except BaseException as error:  # noqa: BLE001  # an agent's failure is data
            outcome = _Outcome(error=error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for this thread any more
            loop.call_soon_threadsafe(_deliver, future, outcome)

    run_in_thread(work)
    return future


def _deliver(future: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


async def _abandon(work: asyncio.Future[_Outcome]) -> bool:
    """Cancel; whether the agent's code may go on all the same, because it is in a thread or ignores it."""
    work.cancel()
    goes_on = not isinstance(work, asyncio.Task) or not (await asyncio.wait({work}, timeout=CANCEL_GRACE_S))[0]
    if goes_on and (process := host()) is not None:
        process.abandoned()
    return goes_on


def _fate(goes_on: bool) -> str:
    if not goes_on:
        return ""
    if host() is not None:
        return "; its code can't be stopped, so this runner process is replaced"
    return "; its code can't be stopped within this process and goes on (runner processes, `strategy='cs'`, end it)"
