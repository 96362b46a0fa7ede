"""Runner processes that do badly: they crash, hang, lose their parent. Real processes, real signals."""

from __future__ import annotations

import asyncio
import ctypes
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import agentlightning as agl
from agentlightning.execution import ThreadingEvent, child
from agentlightning.execution.supervisor import RunnerProcessError

from .runs import RETRY, run


def wait_until(what: Any, seconds: float = 60.0) -> None:
    """Until `what()` is true; fails as a test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def statuses(attempts: list[list[agl.Attempt]]) -> list[list[str]]:
    return [[attempt.status for attempt in of_one] for of_one in attempts]


# -- crashes --------------------------------------------------------------------------------------------------------


def test_a_killed_process_is_replaced_and_its_rollouts_are_tried_again(tmp_path: Path):
    died = tmp_path / "died"

    @agl.rollout
    async def agent(task: int, rollout: Any) -> float:
        if task == 1 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.3)
        return float(task)

    found = run(agent, [0, 1], tmp_path, config=RETRY, max_concurrency=2)
    assert found.rewards == [0.0, 1.0]
    first = [of_one[0] for of_one in found.attempts]
    assert statuses([[a for a in of_one if a.sequence_id == 1] for of_one in found.attempts])[1] == ["unresponsive"]
    assert first[1].metadata is not None
    assert first[1].metadata["error"]["type"] == "RunnerDied"
    assert "was ended by SIGKILL before the agent finished" in first[1].metadata["error"]["message"]
    assert found.attempts[1][-1].worker_id != first[1].worker_id


def test_without_retries_the_rollouts_of_a_killed_process_fail_and_the_run_goes_on(tmp_path: Path):
    @agl.rollout
    def agent(task: int) -> float:
        if task == 1:
            print("about to crash in C", flush=True)
            ctypes.string_at(0)  # a segmentation fault
        return float(task)

    found = run(agent, [0, 1, 2], tmp_path)
    assert [r.status for r in found.done] == ["succeeded", "failed", "succeeded"]
    assert statuses(found.attempts) == [["succeeded"], ["unresponsive"], ["succeeded"]]
    metadata = found.attempts[1][0].metadata
    assert metadata is not None
    assert "about to crash in C" in metadata["error"]["traceback"]
    assert "Segmentation fault" in metadata["error"]["traceback"]
    assert "in agent" in metadata["error"]["traceback"]


def test_an_agent_that_exits_with_0_has_not_finished_the_work_of_its_process(tmp_path: Path):
    exited = tmp_path / "exited"

    @agl.rollout
    def agent(task: int) -> float:
        if task == 1 and not exited.exists():
            exited.touch()
            os._exit(0)
        return float(task)

    found = run(agent, [0, 1, 2], tmp_path, config=RETRY)
    assert found.rewards == [0.0, 1.0, 2.0]
    assert statuses(found.attempts) == [["succeeded"], ["unresponsive", "succeeded"], ["succeeded"]]
    metadata = found.attempts[1][0].metadata
    assert metadata is not None
    assert "exited with 0 before the agent finished" in metadata["error"]["message"]


def test_a_process_shows_now_and_then_that_it_works(monkeypatch: pytest.MonkeyPatch):
    """So a process that crashes again and again does not end a run in which others finish rollouts."""
    reports = io.BytesIO()
    monkeypatch.setattr(child, "REPORT_S", 1000.0)
    host = child.ChildHost("here-1-0", reports, ThreadingEvent())
    for attempt_id in ("at-1", "at-2"):
        host.ended(attempt_id)
    monkeypatch.setattr(child, "REPORT_S", 0.0)
    host.ended("at-3")
    assert reports.getvalue() == b"ended at-1\nended at-3\n"


def test_processes_that_always_crash_end_the_run_with_what_they_said(tmp_path: Path):
    @agl.rollout
    def agent(task: int) -> float:
        print("no licence for the simulator", file=sys.stderr, flush=True)
        os._exit(3)

    forever = agl.RolloutConfig(max_attempts=100, retry_condition=["unresponsive"])
    with pytest.raises(RunnerProcessError, match=r"ended 3 times .* exited with 3(.|\n)*no licence for the simulator"):
        run(agent, [1], tmp_path, config=forever, max_restarts=2)


def test_an_agent_that_can_not_be_loaded_ends_the_run_at_once(tmp_path: Path):
    class Fragile:
        def __reduce__(self) -> Any:
            return _only_here, (os.getpid(),)

    fragile = Fragile()

    @agl.rollout
    def agent(task: int) -> float:
        assert fragile
        return 1.0

    with pytest.raises(RunnerProcessError, match=r"could not load the agent(.|\n)*ImportError: no such library here"):
        run(agent, [1], tmp_path)


def _only_here(pid: int) -> Any:
    if os.getpid() != pid:
        raise ImportError("no such library here")


# -- agents that hang -----------------------------------------------------------------------------------------------


def sleeps(task: int) -> float:
    if task == 1:
        time.sleep(1000)
    return float(task)


async def blocks_the_loop(task: int) -> float:
    if task == 1:
        time.sleep(1000)  # noqa: ASYNC251  # that is the fault
    return float(task)


def never_lets_go_of_the_interpreter(task: int) -> float:
    if task == 1:
        re.match("(a+)+$", "a" * 60 + "b")  # backtracks in C for years
    return float(task)


async def swallows_its_cancellation(task: int) -> float:
    while task == 1:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    return float(task)


@pytest.mark.parametrize(
    "function", [sleeps, blocks_the_loop, never_lets_go_of_the_interpreter, swallows_its_cancellation]
)
def test_a_hung_agent_times_out_and_its_process_is_gone(tmp_path: Path, function: Any):
    pids: list[int] = []

    async def during(store: Any, ids: list[str]) -> None:
        await store.wait_for_rollouts(rollout_ids=ids[1:2])
        pids.extend(w.heartbeat_stats["pid"] for w in await store.query_workers() if w.heartbeat_stats)

    config = agl.RolloutConfig(timeout_seconds=1.0)
    agent = agl.rollout(function)
    found = run(agent, [0, 1, 2, 3], tmp_path, config=config, during=during)
    assert [r.status for r in found.done] == ["succeeded", "failed", "succeeded", "succeeded"]
    assert statuses(found.attempts)[1] == ["timeout"]
    assert found.attempts[1][0].worker_id != found.attempts[3][0].worker_id
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).ppid() == os.getpid()]


class SlowStore(agl.Hook):
    """Stands for a store that takes its time after the agent has finished."""

    async def on_trace_end(self, *, rollout: Any, **_: Any) -> None:
        if rollout.input == 0:
            await asyncio.sleep(5.0)


def test_a_process_that_waits_for_its_store_beyond_the_timeout_does_not_hang(tmp_path: Path):
    @agl.rollout
    async def agent(task: int) -> float:
        return float(task)

    config = agl.RolloutConfig(timeout_seconds=1.0)
    found = run(agent, [0, 1], tmp_path, config=config, hooks=SlowStore())
    assert statuses(found.attempts) == [["timeout"], ["succeeded"]]
    assert found.attempts[0][0].worker_id == found.attempts[1][0].worker_id


# -- the end of the parent ------------------------------------------------------------------------------------------

PARENT = """
import asyncio, os, sys, time
import agentlightning as agl

@agl.rollout
async def agent(task):
    print("child", os.getpid(), flush=True)
    await asyncio.sleep(1000)

@agl.rollout
def sync_agent(task):
    print("child", os.getpid(), flush=True)
    time.sleep(1000)

def load(pid):
    print("child", os.getpid(), flush=True)
    time.sleep(1000)

class TakesLongToLoad(agl.LitAgent):
    needs_resources = False

    def __reduce__(self):
        return load, (os.getpid(),)

    def rollout(self, task, resources, rollout):
        return 1.0

@agl.algo
async def wait(store, train_dataset):
    ids = [(await store.enqueue_rollout(task)).rollout_id for task in train_dataset]
    await store.wait_for_rollouts(rollout_ids=ids)

from agentlightning.execution import ClientServerExecutionStrategy
strategy = ClientServerExecutionStrategy(n_runners=2, graceful_timeout=1.0)
which = {"async": agent, "sync": sync_agent, "loading": TakesLongToLoad()}[sys.argv[1]]
agl.Trainer(algorithm=wait, strategy=strategy, run_dir="run").fit(which, [1, 2])
"""


def start_parent(tmp_path: Path, kind: str) -> tuple[subprocess.Popen[str], list[int], list[str]]:
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, "parent.py", kind], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    said: list[str] = []

    def read() -> None:
        assert parent.stderr is not None
        said.extend(parent.stderr)

    threading.Thread(target=read, daemon=True).start()
    said_by_children: list[str] = []

    def both_work() -> bool:
        assert parent.poll() is None, "".join(said)
        said_by_children[:] = [line for line in said if line.startswith("child")]
        return len(said_by_children) == 2

    wait_until(both_work)
    return parent, [int(line.split()[1]) for line in said_by_children], said


@pytest.mark.parametrize("kind", ["async", "sync", "loading"])
def test_children_do_not_outlive_a_killed_parent(tmp_path: Path, kind: str):
    parent, children, _ = start_parent(tmp_path, kind)
    parent.kill()
    parent.wait(60)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in children))


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_ctrl_c_ends_everything_without_tracebacks_of_the_children(tmp_path: Path, kind: str):
    parent, children, said = start_parent(tmp_path, kind)
    for pid in (parent.pid, *children):  # as a terminal does
        os.kill(pid, signal.SIGINT)
    assert parent.wait(60) in (-signal.SIGINT, 1, 130)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in children))
    assert "execution/child.py" not in "".join(said)
    assert "".join(said).count("\nKeyboardInterrupt") == 1


BUSY = """
import sys, time
import agentlightning as agl

@agl.rollout
def agent(task):
    return 1.0

@agl.algo
def busy(store, train_dataset):
    try:
        print("busy", flush=True)
        while True:
            time.sleep(0.1)  # not once for long: a signal that comes just before a sleep begins is seen after it
    finally:
        print("left", flush=True)

agl.Trainer(algorithm=busy, strategy=sys.argv[1], run_dir="run").fit(agent, [1])
"""


@pytest.mark.parametrize("strategy", ["shm", "cs"])
def test_one_ctrl_c_is_enough_for_an_algorithm_that_is_not_async(tmp_path: Path, strategy: str):
    (tmp_path / "busy.py").write_text(BUSY)
    command = [sys.executable, "busy.py", strategy]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "busy\n"
            parent.send_signal(signal.SIGINT)
            out, errors = parent.communicate(timeout=60)
        finally:
            parent.kill()
    assert out == "left\n"
    assert errors.count("\nKeyboardInterrupt") == 1
    assert "never retrieved" not in errors
    assert parent.returncode in (-signal.SIGINT, 1, 130)


def test_a_process_that_is_told_to_end_finishes_what_it_does(tmp_path: Path):
    """SIGTERM to one runner process, as an operator may send it: it ends, the run goes on with the other."""
    started = tmp_path / "started"

    @agl.rollout
    async def agent(task: int) -> float:
        if task == 0:
            started.touch()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.2)
        return float(task)

    found = run(agent, list(range(6)), tmp_path, n_runners=2)
    assert [r.status for r in found.done] == ["succeeded"] * 6
    assert found.rewards == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
