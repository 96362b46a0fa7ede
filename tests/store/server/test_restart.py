"""A server that is killed and started again over the same file: its clients go on, nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentlightning.store.client_server import LightningStoreClient
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest

from ..helpers import span_of

SCRIPT = Path(__file__).with_name("serving_process.py")
KILLS = 6
WORKERS = 6
SPANS = 3
FOREVER = 240.0


class Process:
    """The server's process, which can be killed and started again."""

    def __init__(self, file: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._file = file
        self.start()

    def start(self) -> None:
        arguments = [sys.executable, str(SCRIPT), str(self._file), str(self.port)]
        self._child = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()


@pytest.mark.slow
async def test_acknowledged_writes_survive_kill_9_and_nothing_is_done_twice(tmp_path: Path):
    process = Process(tmp_path / "store.sqlite")
    client = LightningStoreClient(f"http://127.0.0.1:{process.port}", retry_delays=[0.1] * 600)
    made: dict[str, int] = {}
    done: list[AttemptedRollout] = []

    killing = asyncio.Event()
    killing.set()

    async def make() -> None:
        while killing.is_set():
            requests = [EnqueueRolloutRequest(input=len(made) + k) for k in range(4)]
            made.update({rollout.rollout_id: rollout.input for rollout in await client.enqueue_many_rollouts(requests)})
            await asyncio.sleep(0.02)

    async def work(worker_id: str) -> None:
        while killing.is_set() or len(done) < len(made):
            rollout = await client.dequeue_rollout(worker_id, timeout=0.5)
            if rollout is None:
                continue
            for number in range(SPANS):
                await client.add_span(span_of(rollout, f"span {number}"))
            await client.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
            done.append(rollout)

    async def kill_now_and_then() -> None:
        chance = random.Random(7)
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.05, 0.4))
            process.kill()
            await asyncio.to_thread(process.start)
        killing.clear()

    try:
        async with asyncio.timeout(FOREVER):
            await asyncio.gather(make(), kill_now_and_then(), *(work(f"w{number}") for number in range(WORKERS)))
        rollouts = {rollout.rollout_id: rollout for rollout in await client.query_rollouts()}
        assert {rollout_id: rollout.input for rollout_id, rollout in rollouts.items()} == made
        assert sorted(made.values()) == list(range(len(made)))
        assert Counter(rollout.status for rollout in rollouts.values()) == {"succeeded": len(made)}
        assert sorted(rollout.rollout_id for rollout in done) == sorted(made)
        assert (await client.statistics()).get("total_attempts") == len(made)
        spans = await client.query_many_spans([(each.rollout_id, each.attempt.attempt_id) for each in done])
        assert all(
            sorted(span.name for span in spans[each.rollout_id]) == [f"span {number}" for number in range(SPANS)]
            for each in done
        )
    finally:
        process.kill()
        await client.close()
