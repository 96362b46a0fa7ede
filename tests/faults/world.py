"""A small world of real processes around one store, and what must hold in it whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from agentlightning.store import LightningStoreClient
from agentlightning.types import TERMINAL_ATTEMPT, EnqueueRolloutRequest, Rollout, RolloutConfig

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "25"))
SEED = int(os.environ.get("FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
PATIENCE_S = 120.0
"""A guard against hangs, not a measurement."""
ROOT = Path(__file__).parents[2]
RETRY = RolloutConfig(max_attempts=50, retry_condition=["unresponsive", "timeout"], unresponsive_seconds=30.0)


def chance(name: str) -> random.Random:
    """A source of random moments; the seed is printed, so that a failed run can be repeated."""
    print(f"FAULT_SEED={SEED} for {name}")
    return random.Random(f"{SEED}/{name}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class World:
    """Processes that were started here; all of them are gone when the context is left."""

    def __init__(self, folder: Path, home: str) -> None:
        self.folder = folder
        self.home = home
        """What `agl store` serves: a path or a database URL."""
        self.notes = folder / "notes.txt"
        self.notes.touch()
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.resources: dict[str, int] = {}
        self.client = LightningStoreClient(self.url)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(
        self, *command: str, name: str, preexec: Callable[[], None] | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "FAULT_NOTES": str(self.notes), "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=preexec,
        )
        self.processes.append(process)
        return process

    def start_store(self, preexec: Callable[[], None] | None = None, **environment: str) -> subprocess.Popen[bytes]:
        command = ("-m", "agentlightning.cli", "store", self.home, "--port", str(self.port))
        return self.start(*command, name="store", preexec=preexec, **environment)

    def start_runners(
        self, processes: int = 2, *, url: str | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        return self.start(
            *("-m", "agentlightning.cli", "runner", "tests.faults.agent:noting", "--store", url or self.url),
            *("--processes", str(processes), "--concurrency", "4"),
            name="runners",
            **environment,
        )

    async def enqueue(
        self, count: int, *, spans: int = 3, seconds: float = 0.02, config: RolloutConfig = RETRY
    ) -> list[str]:
        task = {"spans": spans, "seconds": seconds}
        requests = [EnqueueRolloutRequest(input=task, config=config) for _ in range(count)]
        return [rollout.rollout_id for rollout in await self.client.enqueue_many_rollouts(requests)]

    async def publish(self) -> None:
        """New resources that must not be lost."""
        update = await self.client.update_resources("rs-fault", {})
        self.resources[update.resources_id] = update.version

    async def ended(self, rollout_ids: Sequence[str]) -> list[Rollout]:
        """Wait until all rollouts are terminal."""
        rollouts = await self.client.wait_for_rollouts(rollout_ids=rollout_ids, timeout=PATIENCE_S)
        missing = set(rollout_ids) - {rollout.rollout_id for rollout in rollouts}
        assert not missing, f"{len(missing)} of {len(rollout_ids)} rollouts did not end:\n{self.logs()}"
        return rollouts

    async def check(self, rollout_ids: Sequence[str]) -> None:
        """Every rollout has succeeded by exactly one attempt, and what was acknowledged is there."""
        rollouts = await self.ended(rollout_ids)
        assert Counter(rollout.status for rollout in rollouts) == {"succeeded": len(rollout_ids)}, self.logs()
        noted = self.acknowledged_spans()
        for rollout in rollouts:
            attempts = list(await self.client.query_attempts(rollout.rollout_id))
            assert [attempt.status for attempt in attempts if attempt.status == "succeeded"] == ["succeeded"]
            assert attempts[-1].status == "succeeded"
            assert all(attempt.status in TERMINAL_ATTEMPT for attempt in attempts)
            spans = list(await self.client.query_spans(rollout.rollout_id))
            assert noted.get(rollout.rollout_id, set()) <= {span.span_id for span in spans}
            numbers = [span.sequence_id for span in spans]
            assert len(set(numbers)) == len(numbers)
            rewards = [
                s for s in spans if s.name == "agentlightning.reward" and s.attempt_id == attempts[-1].attempt_id
            ]
            assert [span.attributes["agentlightning.reward.0.value"] for span in rewards] == [attempts[-1].sequence_id]
        for resources_id, version in self.resources.items():
            stored = await self.client.get_resources_by_id(resources_id)
            assert stored is not None
            assert stored.version >= version

    def acknowledged_spans(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for words in map(str.split, self.notes.read_text().splitlines()):
            if words[0] == "span":
                found.setdefault(words[1], set()).add(words[3])
        return found

    def logs(self) -> str:
        """The ends of what the processes said."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.client.close()
        family = [member for process in self.processes for member in descendants(process.pid)]
        for process in self.processes:
            process.kill()
            process.wait()
        for member in family:
            if member.is_running():
                member.kill()


def descendants(pid: int) -> list[psutil.Process]:
    """Children and their children."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that other processes do."""
    for _ in range(int(PATIENCE_S / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it did not come to pass that {what}")


async def child_of(process: subprocess.Popen[bytes], random: random.Random) -> psutil.Process:
    """One of the processes that a supervisor keeps alive; waits until there is one."""
    for _ in range(int(PATIENCE_S / 0.05)):
        children = [child for child in descendants(process.pid) if child.status() != psutil.STATUS_ZOMBIE]
        if children:
            return random.choice(children)
        await asyncio.sleep(0.05)
    raise AssertionError("the supervisor has no child")


def kill(process: psutil.Process) -> None:
    """kill -9; it may have gone by itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
