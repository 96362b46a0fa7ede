"""How runner processes start, and how a run ends that is stopped or cancelled meanwhile. Real processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import agentlightning as agl
from agentlightning.execution import ThreadingEvent, supervisor
from agentlightning.execution.job import pickled
from agentlightning.execution.supervisor import Supervisor
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.trainer.bundle import AgentRunnerBundle

from .runs import run

PATIENCE_S = 60.0
"""A guard against hangs."""


async def until(what: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Until `what()` is true."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110  # other processes do it
            await asyncio.sleep(0.02)


class Loaded(agl.LitAgent[Any]):
    """Notes in a file when a process begins to load it, and when it has loaded it; the first one takes `seconds`."""

    needs_resources = False

    def __init__(self, notes: Path, first: float, later: float) -> None:
        super().__init__()
        self.given = (notes, first, later)
        self.ballast = ""

    def __reduce__(self) -> Any:
        return _load, (*self.given, self.ballast)

    def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
        return 1.0


def _load(notes: Path, first: float, later: float, ballast: str) -> Loaded:
    seconds = later if notes.exists() else first
    _note(notes, "began")
    time.sleep(seconds)
    _note(notes, "ended")
    return Loaded(notes, first, later)


def _note(notes: Path, word: str) -> None:
    with notes.open("a") as file:
        file.write(f"{word} {os.getpid()}\n")


def noted(notes: Path, word: str) -> list[str]:
    return (
        [line.split()[1] for line in notes.read_text().splitlines() if line.startswith(word)] if notes.exists() else []
    )


def test_no_more_processes_load_at_once_than_there_are_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_cores", lambda: 1)
    monkeypatch.setattr(supervisor, "TURN_S", 1000.0)
    notes = tmp_path / "notes"

    async def all_loaded(store: Any, ids: list[str]) -> None:
        await until(lambda: len(noted(notes, "ended")) == 3)

    found = run(Loaded(notes, 0.3, 0.3), [1, 2], tmp_path, n_runners=3, during=all_loaded)
    assert [rollout.status for rollout in found.done] == ["succeeded"] * 2
    lines = notes.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["began", "ended"] * 3
    assert [line.split()[1] for line in lines[::2]] == [line.split()[1] for line in lines[1::2]]


def test_a_process_that_takes_long_to_load_does_not_keep_the_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_cores", lambda: 1)
    monkeypatch.setattr(supervisor, "TURN_S", 0.1)
    notes = tmp_path / "notes"
    found = run(Loaded(notes, 1000.0, 0.0), [1, 2], tmp_path, n_runners=2, graceful_timeout=0.1)
    assert [rollout.status for rollout in found.done] == ["succeeded"] * 2
    assert len(noted(notes, "began")) == 2
    assert len(noted(notes, "ended")) == 1


# -- without a trainer ----------------------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[LightningStoreServer]:
    made = LightningStoreServer(agl.InMemoryLightningStore())
    await made.start()
    yield made
    await made.close()


def children() -> list[psutil.Process]:
    """Runner processes of this one."""
    found = psutil.Process().children()
    return [child for child in found if any("execution.child" in word for word in child.cmdline())]


def supervised(
    server: LightningStoreServer, agent: agl.LitAgent[Any], ready: Callable[[], Awaitable[None]] | None = None
) -> tuple[asyncio.Task[None], ThreadingEvent]:
    """Two runner processes at work, which get their store after `ready`; setting the event stops them."""
    event = ThreadingEvent()
    two = Supervisor(pickled("the runner", AgentRunnerBundle(agent)), 2, graceful_timeout=0.5, terminate_timeout=0.5)

    async def handle() -> bytes:
        if ready is not None:
            await ready()
        return pickled("the store", LightningStoreClient(server.endpoint))

    return asyncio.create_task(two.run(server, handle(), event)), event


async def test_a_process_that_stands_still_does_not_keep_the_others_from_stopping(
    tmp_path: Path, server: LightningStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a full pipe that it doesn't read, and they end while it is told to stop."""
    monkeypatch.setattr(supervisor, "_cores", lambda: 2)
    notes = tmp_path / "notes"
    agent = Loaded(notes, 0.0, 0.0)
    agent.ballast = "x" * 1_000_000  # more than a pipe holds

    async def one_stopped() -> None:
        await until(lambda: len(children()) == 2)
        children()[0].suspend()

    work, event = supervised(server, agent, one_stopped)
    await until(lambda: noted(notes, "ended"))
    event.set()
    await asyncio.wait_for(work, PATIENCE_S)
    assert not children()


async def test_a_cancelled_run_leaves_no_process_and_starts_none(tmp_path: Path, server: LightningStoreServer) -> None:
    notes = tmp_path / "notes"
    work, _ = supervised(server, Loaded(notes, 0.0, 0.0))
    await until(lambda: len(noted(notes, "ended")) == 2)
    others = asyncio.all_tasks() - {asyncio.current_task(), work}
    places = {task for task in others if "_keep" in repr(task.get_coro())}
    assert len(places) == 2
    work.cancel()
    await asyncio.wait({work})
    assert work.cancelled()
    _, going_on = await asyncio.wait(places, timeout=PATIENCE_S)
    assert not going_on
    assert not children()
