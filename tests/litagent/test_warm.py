"""Warm programs: one process for many rollouts, replaced when it dies."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from agentlightning.emitter import find_final_reward
from agentlightning.litagent import CommandAgent, command
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import LLM, RolloutConfig

from .programs import error_of, gone, output_of, run_all, run_one, running, written

PROGRAM = """
import json, os, sys, time, urllib.request
open("pids", "a").write(f"{os.getpid()}\\n")
for line in sys.stdin:
    ask = json.loads(line)
    task = ask["task"]
    if task == "log":
        print("a line of log", {"reward": "not one"})
        print('{"level": "info", "text": "structured"}')
    if task == "raise":
        print("it went wrong", file=sys.stderr)
        raise SystemExit(5)
    if task == "hang":
        time.sleep(1000)
    if task == "twice":
        print('{"reward": 1}')
    if task == "meet":
        open(ask["rollout_id"], "w").close()
        while len(os.listdir(".")) < 5:
            time.sleep(0.01)
    if task == "file":
        open(ask["reward_file"], "w").write("0.75")
    if task == "post":
        event = json.dumps({"event_type": "reward", "value": 0.5}).encode()
        headers = {"Authorization": f"Bearer {ask['key']}"}
        urllib.request.urlopen(urllib.request.Request(ask["event_url"], event, headers))
    answers = {"error": {"error": "the tool is broken"}, "file": {}, "post": {}, "nothing": {}}
    answers["show"] = {"reward": 1, "rollout_id": ask["rollout_id"]}
    answers["other"] = {"reward": 1, "rollout_id": "ro-other"}
    if task == "show":
        print(sorted(ask), ask.get("openai_base_url"), ask.get("model"))
    print(json.dumps(answers.get(task, {"reward": 1})), flush=True)
open("ended", "w").write("by itself\\n")
"""


@pytest.fixture
def agent(tmp_path: Path) -> CommandAgent:
    return command([sys.executable, "-c", PROGRAM], cwd=tmp_path, warm=True, grace=2.0)


@pytest.fixture
async def store() -> InMemoryLightningStore:
    return InMemoryLightningStore()


def pids(directory: Path) -> list[int]:
    return [int(pid) for pid in written(directory / "pids").split()]


async def test_one_program_does_many_rollouts(agent: CommandAgent, store: InMemoryLightningStore, tmp_path: Path):
    done = await run_all(agent, ["x", "log", "file", "post", "show"], store)
    assert [rollout.status for rollout in done] == ["succeeded"] * 5
    rewards = [find_final_reward(await store.query_spans(rollout.rollout_id)) for rollout in done]
    assert rewards == [1.0, 1.0, 0.75, 0.5, 1.0]
    assert len(pids(tmp_path)) == 1


async def test_what_it_is_told(agent: CommandAgent, store: InMemoryLightningStore):
    await store.add_resources({"main_llm": LLM(endpoint="http://127.0.0.1:9/v1", model="tiny")})
    _, spans = await run_one(agent, "show", store, mode="train")
    names, url, model = output_of(spans)["stdout"].splitlines()[0].rsplit(" ", 2)
    assert (url, model) == ("http://127.0.0.1:9/v1", "tiny")
    for name in ("task", "rollout_id", "attempt_id", "mode", "openai_api_key", "event_url", "key", "reward_file"):
        assert f"'{name}'" in names


async def test_one_for_each_rollout_at_the_same_time(
    agent: CommandAgent, store: InMemoryLightningStore, tmp_path: Path
):
    done = await run_all(agent, ["meet"] * 4 + ["x"] * 20, store, max_concurrency=4)
    assert {rollout.status for rollout in done} == {"succeeded"}
    assert len(pids(tmp_path)) == 4


async def test_one_that_dies_is_replaced(agent: CommandAgent, store: InMemoryLightningStore, tmp_path: Path):
    done = await run_all(agent, ["x", "raise", "x"], store)
    assert [rollout.status for rollout in done] == ["succeeded", "failed", "succeeded"]
    assert "exited with 5 before it answered; the end of its stderr:\nit went wrong" in error_of(done[1])
    assert len(pids(tmp_path)) == 2


async def test_one_that_hangs_is_ended(agent: CommandAgent, store: InMemoryLightningStore, tmp_path: Path):
    async with running(agent, store):
        stuck = await store.enqueue_rollout("hang", config=RolloutConfig(timeout_seconds=0.5))
        (done,) = await store.wait_for_rollouts(rollout_ids=[stuck.rollout_id], timeout=60)
        assert done.attempt.status == "timeout"  # type: ignore[attr-defined]
        next_one = await store.enqueue_rollout("x")
        (done,) = await store.wait_for_rollouts(rollout_ids=[next_one.rollout_id], timeout=60)
        assert done.status == "succeeded"
        first, _ = pids(tmp_path)
        assert await asyncio.to_thread(gone, first)


async def test_an_error_is_told_and_the_program_stays(
    agent: CommandAgent, store: InMemoryLightningStore, tmp_path: Path
):
    done = await run_all(agent, ["error", "nothing", "x"], store)
    assert "failed: the tool is broken" in error_of(done[0])
    assert 'gave no reward: answer {"reward": 1.0}' in error_of(done[1])
    assert done[2].status == "succeeded"
    assert len(pids(tmp_path)) == 1


@pytest.mark.parametrize("task", ["twice", "other"])
async def test_one_that_loses_step_is_replaced(
    agent: CommandAgent, store: InMemoryLightningStore, tmp_path: Path, task: str
):
    done = await run_all(agent, [task, "x"], store)
    assert done[0].status == ("succeeded" if task == "twice" else "failed")
    assert done[1].status == "succeeded"
    assert len(pids(tmp_path)) == 2


async def test_they_end_by_themselves_when_the_runner_does(agent: CommandAgent, tmp_path: Path):
    await run_one(agent, "x")
    agent.leave_runner(None)
    assert await asyncio.to_thread(written, tmp_path / "ended") == "by itself\n"
    assert await asyncio.to_thread(gone, pids(tmp_path)[0])


def test_the_end_of_the_loop_does_not_cut_their_end_short(agent: CommandAgent, tmp_path: Path):
    async def end_twice() -> None:
        await run_one(agent, "x")
        agent.leave_runner(None)
        await asyncio.sleep(0)  # its end begins, and the loop's end comes on top

    asyncio.run(end_twice())
    assert (tmp_path / "ended").read_text() == "by itself\n"


def test_they_end_with_the_event_loop(agent: CommandAgent, tmp_path: Path):
    asyncio.run(run_one(agent, "x"))
    assert written(tmp_path / "ended") == "by itself\n"
    asyncio.run(run_one(agent, "x"))  # another loop has programs of its own
    assert len(pids(tmp_path)) == 2
    assert all(gone(pid) for pid in pids(tmp_path))


async def test_one_that_prints_without_end(store: InMemoryLightningStore):
    endless = "import sys\nfor line in sys.stdin:\n    while True: sys.stdout.write('x' * 9999)"
    done, _ = await run_one(command([sys.executable, "-c", endless], warm=True, grace=0.2), "x", store)
    assert "printed a line of more than" in error_of(done)
