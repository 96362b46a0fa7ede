"""`agl runner` as a process: works, drains, ends with the store, is one of several."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import agentlightning as agl
from agentlightning.store.client_server import LightningStoreServer

AGENT = """
import asyncio, os, time
import agentlightning as agl

@agl.rollout
async def agent(task):
    agl.emit_message(f"begun {os.getpid()}")
    if task == "slow":
        agl.emit_reward(0.0)
        await asyncio.sleep(1.0)
    elif task == "endless":
        agl.emit_reward(0.0)
        await asyncio.Event().wait()
    elif task == "crash":
        os._exit(9)
    return 1.0
"""
RETRY = agl.RolloutConfig(max_attempts=2, retry_condition=["unresponsive"])


@pytest.fixture
async def server() -> AsyncGenerator[LightningStoreServer]:
    server = LightningStoreServer(agl.InMemoryLightningStore())
    await server.start()
    yield server
    await server.stop()


@contextmanager
def agl_runner(tmp_path: Path, store: str, *options: str) -> Generator[subprocess.Popen[str]]:
    (tmp_path / "my_agent.py").write_text(AGENT)
    command = [sys.executable, "-c", "from agentlightning.cli import main; main()", "runner", "my_agent:agent"]
    process = subprocess.Popen(
        [*command, "--store", store, *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    _, err = await asyncio.to_thread(process.communicate, timeout=60)
    return process.returncode, err


async def begun(store: Any, rollout_id: str) -> None:
    while len(await store.query_spans(rollout_id)) == 0:  # noqa: ASYNC110  # spans can't be awaited
        await asyncio.sleep(0.02)


async def test_it_works_and_ends_with_the_store(tmp_path: Path, server: LightningStoreServer):
    queued = [await server.enqueue_rollout(i) for i in range(6)]
    with agl_runner(tmp_path, server.endpoint, "--processes", "2", "--concurrency", "2") as process:
        done = await server.wait_for_rollouts(rollout_ids=[q.rollout_id for q in queued], timeout=60)
        assert [d.status for d in done] == ["succeeded"] * 6
        server.end_waits()
        code, err = await ended(process)
    assert code == 0, err
    assert "Traceback" not in err
    assert "the runners have ended" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_it_finish_what_is_under_way(
    tmp_path: Path, server: LightningStoreServer, number: signal.Signals
):
    slow = await server.enqueue_rollout("slow")
    with agl_runner(tmp_path, server.endpoint) as process:
        await begun(server, slow.rollout_id)
        process.send_signal(number)
        later = None
        code, err = await ended(process)
        later = await server.enqueue_rollout("nobody takes this")
    assert (code, "Traceback" in err) == (0, False), err
    rollout = await server.get_rollout_by_id(slow.rollout_id)
    assert rollout is not None
    assert rollout.status == "succeeded"
    assert (await server.get_rollout_by_id(later.rollout_id)).status == "queuing"  # type: ignore[union-attr]


async def test_a_second_signal_gives_up_what_is_under_way(tmp_path: Path, server: LightningStoreServer):
    endless = await server.enqueue_rollout("endless", config=RETRY)
    with agl_runner(tmp_path, server.endpoint) as process:
        await begun(server, endless.rollout_id)
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        code, err = await ended(process)
    assert (code, "Traceback" in err) == (0, False), err
    assert children
    assert not any(child.is_running() for child in children)
    rollout = await server.get_rollout_by_id(endless.rollout_id)
    assert isinstance(rollout, agl.AttemptedRollout)
    assert (rollout.status, rollout.attempt.status) == ("requeuing", "unresponsive")


async def test_runners_come_and_go_while_rollouts_run(tmp_path: Path, server: LightningStoreServer):
    queued = [await server.enqueue_rollout("slow", config=RETRY) for _ in range(4)]
    ids = [q.rollout_id for q in queued]
    with agl_runner(tmp_path, server.endpoint, "--concurrency", "1") as first:
        await begun(server, ids[0])
        with agl_runner(tmp_path, server.endpoint, "--concurrency", "1") as second:
            await begun(server, ids[1])
            first.send_signal(signal.SIGTERM)
            assert (await ended(first))[0] == 0
            done = await server.wait_for_rollouts(rollout_ids=ids, timeout=60)
            second.send_signal(signal.SIGTERM)
            assert (await ended(second))[0] == 0
    assert [d.status for d in done] == ["succeeded"] * 4
    workers = {d.attempt.worker_id.rsplit("-", 1)[0] for d in done}  # type: ignore[union-attr]
    assert len(workers) == 2


async def test_a_crash_is_reported_and_the_rollout_ends(tmp_path: Path, server: LightningStoreServer):
    crash, fine = await server.enqueue_rollout("crash"), await server.enqueue_rollout("fine")
    with agl_runner(tmp_path, server.endpoint, "--concurrency", "1") as process:
        ids = [crash.rollout_id, fine.rollout_id]
        done = await server.wait_for_rollouts(rollout_ids=ids, timeout=60)
        process.send_signal(signal.SIGTERM)
        code, err = await ended(process)
    assert [d.status for d in done] == ["failed", "succeeded"]
    assert done[0].attempt.metadata["error"]["message"].endswith("exited with 9 before the agent finished")  # type: ignore[union-attr,index]
    assert code == 0
    assert "exited with 9; another starts" in err


async def test_a_wrong_token_is_one_line(tmp_path: Path):
    server = LightningStoreServer(agl.InMemoryLightningStore(), token="secret")
    await server.start()
    try:
        with agl_runner(tmp_path, server.endpoint, "--token", "wrong") as process:
            code, err = await ended(process)
        assert code == 2
        assert "error: " in err
        assert "token" in err
        assert "Traceback" not in err
        queued = await server.enqueue_rollout(1)
        with agl_runner(tmp_path, server.endpoint, "--token", "secret", "--max-rollouts", "1") as process:
            assert (await ended(process))[0] == 0
        assert (await server.get_rollout_by_id(queued.rollout_id)).status == "succeeded"  # type: ignore[union-attr]
    finally:
        await server.stop()


async def test_wrong_input_is_one_line(tmp_path: Path):
    with agl_runner(tmp_path, "127.0.0.1:4747") as process:
        code, err = await ended(process)
    assert code == 2
    assert "`--store` is a URL as `http://127.0.0.1:4747`, got `127.0.0.1:4747`" in err
