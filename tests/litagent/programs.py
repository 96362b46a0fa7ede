"""What the tests of command agents share: a runner at work, and what became of its rollouts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agentlightning.execution import ThreadingEvent
from agentlightning.litagent import LitAgent
from agentlightning.runner import LitAgentRunner
from agentlightning.semconv import AGL_OPERATION
from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.tracer import OtelTracer
from agentlightning.types import Rollout, Span

HANG_GUARD_S = 60.0


@asynccontextmanager
async def running(agent: LitAgent[Any], store: LightningStore, **options: Any) -> AsyncGenerator[None, None]:
    """A runner that works in the background and is stopped by its event."""
    event = ThreadingEvent()
    with LitAgentRunner(OtelTracer(), **options).run_context(agent=agent, store=store) as runner:
        work = asyncio.create_task(runner.iter(event=event))
        try:
            yield
        finally:
            event.set()
            await work


async def run_all(agent: LitAgent[Any], tasks: list[Any], store: LightningStore, **options: Any) -> list[Rollout]:
    """One rollout for each task, from the queue to their ends."""
    request = options.pop("request", {})
    async with running(agent, store, **options):
        ids = [(await store.enqueue_rollout(task, **request)).rollout_id for task in tasks]
        done = await store.wait_for_rollouts(rollout_ids=ids, timeout=HANG_GUARD_S)
    assert len(done) == len(tasks)
    return done


async def run_one(
    agent: LitAgent[Any], task: Any = "task", store: LightningStore | None = None, **request: Any
) -> tuple[Rollout, list[Span]]:
    """One rollout, and the spans of its attempt."""
    store = store or InMemoryLightningStore()
    (done,) = await run_all(agent, [task], store, request=request)
    return done, list(await store.query_spans(done.rollout_id, "latest"))


def error_of(rollout: Any) -> str:
    """The message of what the latest attempt failed with."""
    assert rollout.status == "failed", rollout
    return rollout.attempt.metadata["error"]["message"]


def output_of(spans: list[Span]) -> dict[str, Any]:
    """What the program printed and how it ended."""
    (span,) = [span for span in spans if span.name == AGL_OPERATION]
    prefix = "agentlightning.operation.output."
    return {name.removeprefix(prefix): value for name, value in span.attributes.items() if name.startswith(prefix)}


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def written(path: Path, lines: int = 1) -> str:
    """The content of a file, once it is there and has so many lines."""
    deadline = time.monotonic() + HANG_GUARD_S
    while not (path.exists() and path.read_text().count("\n") >= lines):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.01)
    return path.read_text()


def gone(pid: int) -> bool:
    """Whether a process ends."""
    deadline = time.monotonic() + HANG_GUARD_S
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
