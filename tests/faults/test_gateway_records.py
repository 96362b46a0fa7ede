"""The store goes away, the gateway is killed: no answered call is lost, and none is there twice.

A store server and a gateway, each a process; the runner and its agents are in the test's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import agentlightning as agl
from agentlightning.runner import LitAgentRunner
from agentlightning.semconv import LLM_CALL_NUMBER, LLM_CALL_SPAN
from agentlightning.tracer import DummyTracer
from agentlightning.types import TERMINAL_ROLLOUT, Rollout

from .gateway import MODEL
from .world import World, descendants, free_port, until

OUTAGE_S = 10.0
AGENTS = 4


class Calling(agl.LitAgent[Any]):
    """Calls the gateway again and again until it is told to end; notes what was answered, by rollout.

    Each call asks for the next number; one that gets no answer is asked again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answered: dict[str, list[int]] = {}
        self.end = asyncio.Event()

    async def rollout_async(self, task: Any, resources: agl.NamedResources, rollout: agl.AttemptedRollout) -> float:
        answered = self.answered[rollout.rollout_id] = []
        base = resources["main_llm"].get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        async with aiohttp.ClientSession() as http:
            while not self.end.is_set() or len(answered) < 3:
                number = len(answered) + 1
                body = {"model": MODEL, "messages": [{"role": "user", "content": str(number)}]}
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.post(f"{base}/chat/completions", json=body) as answer:
                        if answer.status == 200:
                            assert (await answer.json())["choices"][0]["message"]["content"] == str(number)
                            answered.append(number)
                await asyncio.sleep(0.05)
        return float(len(answered))

    def counts(self) -> list[int]:
        return [len(answered) for answered in self.answered.values()]

    def all_beyond(self, counts: list[int], more: int) -> bool:
        return len(self.counts()) == AGENTS and all(
            now >= then + more for now, then in zip(self.counts(), counts or [0] * AGENTS, strict=True)
        )


class Records:
    """The world, its gateway and a runner with agents that call it."""

    def __init__(self, world: World, agent: Calling) -> None:
        self.world = world
        self.agent = agent
        self.port = free_port()
        self.store: subprocess.Popen[bytes]
        self.gateway: subprocess.Popen[bytes]
        self.rollout_ids: list[str] = []

    async def start_gateway(self, spool_dir: str) -> None:
        arguments = (str(self.port), self.world.url, spool_dir and str(self.world.folder / spool_dir))
        log, before = self.world.folder / "gateway.log", self.ready_gateways()
        self.gateway = self.world.start("-m", "tests.faults.gateway", *arguments, name="gateway")
        await until(lambda: self.ready_gateways() > before or self.gateway.poll() is not None, "the gateway is ready")
        assert self.gateway.poll() is None, await asyncio.to_thread(log.read_text)

    def ready_gateways(self) -> int:
        log = self.world.folder / "gateway.log"
        return log.read_text().count("ready\n") if log.exists() else 0

    def kill_gateway(self) -> None:
        self.gateway.kill()
        self.gateway.wait()

    def signal_store(self, number: signal.Signals) -> None:
        """To the server and to the parent that would start it again."""
        for process in [self.store, *descendants(self.store.pid)]:
            process.send_signal(number)

    async def kill_store(self) -> None:
        self.signal_store(signal.SIGKILL)
        await asyncio.to_thread(self.store.wait)

    async def more_calls(self) -> None:
        """Every agent gets more answers."""
        before = self.agent.counts()
        await until(lambda: self.agent.all_beyond(before, 3), "every agent gets answers")

    async def check(self, rollouts: list[Rollout]) -> None:
        """Each rollout has succeeded, at the first try, with exactly its answered calls, in order."""
        for rollout in rollouts:
            assert rollout.status == "succeeded", self.world.logs()
            (attempt,) = await self.world.client.query_attempts(rollout.rollout_id)
            assert attempt.status == "succeeded"
            answered = self.agent.answered[rollout.rollout_id]
            assert await self.recorded(rollout) == answered
            reward = agl.find_final_reward(list(await self.world.client.query_spans(rollout.rollout_id)))
            assert reward == len(answered)

    async def recorded(self, rollout: Rollout) -> list[int]:
        """What the recorded calls asked for, by their place in the store."""
        spans = list(await self.world.client.query_spans(rollout.rollout_id, name=LLM_CALL_SPAN))
        asked: list[int] = []
        for span in spans:
            assert span.token_call is not None
            asked.append(int(bytes(span.token_call.prompt_ids.astype("u1"))))
        return asked


@asynccontextmanager
async def calling(folder: Path, home: str, spool_dir: str = "spool", wait: float = 60.0) -> AsyncIterator[Records]:
    """All of it, with agents under way."""
    agent = Calling()
    async with World(folder, home) as world:
        records = Records(world, agent)
        records.store = world.start_store()
        await world.publish()  # waits until it is there
        await records.start_gateway(spool_dir)
        llm = agl.ProxyLLM(confirms_calls=True, endpoint=f"http://127.0.0.1:{records.port}/v1", model=MODEL)
        await world.client.add_resources({"main_llm": llm})
        records.rollout_ids = await world.enqueue(AGENTS)
        runner = LitAgentRunner[Any](
            DummyTracer(), max_rollouts=AGENTS, max_concurrency=AGENTS, heartbeat_interval=1.0, records_wait=wait
        )
        with runner.run_context(agent=agent, store=world.client):
            work = asyncio.create_task(runner.iter())
            await records.more_calls()
            yield records
            agent.end.set()
            await work


@pytest.mark.parametrize("fault", ["killed", "stopped"])
async def test_calls_go_on_while_the_store_is_away(fault: str, fault_home: str, tmp_path: Path) -> None:
    async with calling(tmp_path, fault_home) as records:
        if fault == "killed":
            await records.kill_store()
        else:
            records.signal_store(signal.SIGSTOP)
        await records.more_calls()
        await asyncio.sleep(OUTAGE_S)
        await records.more_calls()
        if fault == "killed":
            records.store = records.world.start_store()
        else:
            records.signal_store(signal.SIGCONT)
        await records.more_calls()
        records.agent.end.set()
        await records.check(await records.world.ended(records.rollout_ids))


async def test_agents_that_end_while_the_store_is_away(fault_home: str, tmp_path: Path) -> None:
    """Their attempts end when it is back and has all of their calls."""
    async with calling(tmp_path, fault_home) as records:
        await records.kill_store()
        await records.more_calls()
        records.agent.end.set()
        await asyncio.sleep(1.0)  # they end, and the runner asks the gateway
        records.store = records.world.start_store()
        await records.check(await records.world.ended(records.rollout_ids))


async def _answered_but_spooled(records: Records) -> None:
    """Agents have ended, their last answers' calls are in the spool, the gateway is killed and the store is back."""
    await records.kill_store()
    await records.more_calls()
    records.agent.end.set()
    await asyncio.sleep(0.5)  # they end
    records.kill_gateway()
    records.store = records.world.start_store()
    rollouts = await records.world.client.query_rollouts()  # waits until it is there
    for rollout in rollouts:
        recorded, answered = await records.recorded(rollout), records.agent.answered[rollout.rollout_id]
        assert recorded == answered[: len(recorded)]
        assert len(recorded) < len(answered), "nothing was left in the spool"


async def test_a_killed_gateway_that_comes_back_delivers(fault_home: str, tmp_path: Path) -> None:
    """An attempt succeeds only after that."""
    async with calling(tmp_path, fault_home) as records:
        await _answered_but_spooled(records)
        rollouts = await records.world.client.query_rollouts()
        assert not TERMINAL_ROLLOUT.intersection(rollout.status for rollout in rollouts)
        await records.start_gateway("spool")
        await records.check(await records.world.ended(records.rollout_ids))


@pytest.mark.parametrize("spool_dir", ["another", ""])
async def test_a_gateway_without_the_spool_of_the_killed_one_confirms_nothing(spool_dir: str, tmp_path: Path) -> None:
    async with calling(tmp_path, str(tmp_path / "store.sqlite")) as records:
        await _answered_but_spooled(records)
        await records.start_gateway(spool_dir)
        await _check_missing(records, "began before this gateway")


async def test_a_killed_gateway_that_does_not_come_back(tmp_path: Path) -> None:
    async with calling(tmp_path, str(tmp_path / "store.sqlite"), wait=5.0) as records:
        await _answered_but_spooled(records)
        await _check_missing(records, "did not confirm within 5 s")


async def _check_missing(records: Records, said: str) -> None:
    for rollout in await records.world.ended(records.rollout_ids):
        assert rollout.status == "failed"
        (attempt,) = await records.world.client.query_attempts(rollout.rollout_id)
        assert attempt.metadata is not None
        assert attempt.metadata["error"]["type"] == "MissingRecords"
        assert said in attempt.metadata["error"]["message"]
        assert f"http://127.0.0.1:{records.port}/rollout/{rollout.rollout_id}" in attempt.metadata["error"]["message"]


async def test_a_gateway_that_is_killed_among_calls(fault_home: str, tmp_path: Path) -> None:
    """The agents ask again until it is back. A call whose answer did not get through may be on record all the same."""
    async with calling(tmp_path, fault_home) as records:
        for _ in range(3):
            await records.more_calls()
            records.kill_gateway()
            await records.start_gateway("spool")
        await records.more_calls()
        records.agent.end.set()
        for rollout in await records.world.ended(records.rollout_ids):
            assert rollout.status == "succeeded", records.world.logs()
            recorded = await records.recorded(rollout)
            assert sorted(set(recorded)) == records.agent.answered[rollout.rollout_id]
            assert recorded == sorted(recorded)


async def test_calls_go_on_where_a_killed_gateway_left_some_in_its_spool(fault_home: str, tmp_path: Path) -> None:
    """The numbers of an attempt's calls, from which its seeds are made, go on too."""
    async with calling(tmp_path, fault_home) as records:
        await records.kill_store()
        await records.more_calls()
        records.kill_gateway()
        await records.start_gateway("spool")
        records.store = records.world.start_store()
        await records.more_calls()
        records.agent.end.set()
        for rollout in await records.world.ended(records.rollout_ids):
            assert rollout.status == "succeeded", records.world.logs()
            assert sorted(set(await records.recorded(rollout))) == records.agent.answered[rollout.rollout_id]
            spans = await records.world.client.query_spans(rollout.rollout_id, name=LLM_CALL_SPAN)
            numbers = [span.attributes[LLM_CALL_NUMBER] for span in spans]
            assert numbers == list(range(1, len(numbers) + 1))
