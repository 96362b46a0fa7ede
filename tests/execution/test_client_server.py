"""Runner processes that do well: what travels to them, what comes back, and how a run ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.execution import ClientServerExecutionStrategy
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.types import ConfigError

from .runs import Collect, run


def test_a_closure_is_an_agent_and_runs_in_another_process(tmp_path: Path):
    offset = 10

    @agl.rollout
    def agent(task: int) -> float:
        agl.emit_message(str(os.getpid()))
        return float(task + offset)

    found = run(agent, [1, 2, 3], tmp_path, n_runners=2)
    assert [r.status for r in found.done] == ["succeeded"] * 3
    assert found.rewards == [11.0, 12.0, 13.0]
    names = {r.attempt.worker_id for r in found.done}
    assert all(name is not None and f"-{os.getpid()}-" in name for name in names)
    pids = {worker.heartbeat_stats["pid"] for worker in found.workers if worker.heartbeat_stats}
    assert pids
    assert os.getpid() not in pids


class ByClass(agl.LitAgent[Any]):
    def __init__(self, reward: float) -> None:
        super().__init__()
        self.reward = reward

    async def training_rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
        return self.reward

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
        return self.reward + task


def test_an_object_of_a_class_is_an_agent(tmp_path: Path):
    agent = ByClass(0.5)
    agent.needs_resources = False
    agent.set_trainer(test_an_object_of_a_class_is_an_agent)  # what is held weakly does not travel
    assert run(agent, [1, 2], tmp_path, max_concurrency=2).rewards == [1.5, 2.5]


def test_a_failure_comes_back_with_its_reason(tmp_path: Path):
    @agl.rollout
    def agent(task: int) -> float:
        raise KeyError(f"lost {task}")

    (done,) = run(agent, [7], tmp_path).done
    assert done.status == "failed"
    assert done.attempt.metadata is not None
    assert done.attempt.metadata["error"]["type"] == "KeyError"
    assert "lost 7" in done.attempt.metadata["error"]["traceback"]


class Named(agl.Hook):
    async def on_trace_end(self, **about: Any) -> None:
        agl.emit_message(f"hook in {os.getpid()}")


def test_hooks_travel_too(tmp_path: Path):
    seen: list[str] = []

    @agl.rollout
    def agent(task: int) -> float:
        return 1.0

    async def during(store: Any, ids: list[str]) -> None:
        await store.wait_for_rollouts(rollout_ids=ids)
        seen.extend(str(s.attributes.get("agentlightning.message.body")) for s in await store.query_spans(ids[0]))

    run(agent, [1], tmp_path, during=during, hooks=Named())
    (said,) = [text for text in seen if text.startswith("hook in")]
    assert said != f"hook in {os.getpid()}"


def test_what_agents_print_reaches_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    @agl.rollout
    def agent(task: int) -> float:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        subprocess.run(["echo", "from a program"], check=True)
        assert sys.stdin.read() == ""
        return 1.0

    assert run(agent, [1], tmp_path).rewards == [1.0]
    out, err = capfd.readouterr()
    assert out == ""
    for text in ("to stdout", "to stderr", "from a program"):
        assert text in err


def test_what_can_not_travel_is_named_before_anything_starts(tmp_path: Path):
    lock = threading.Lock()

    @agl.rollout
    def agent(task: int) -> float:
        with lock:
            return 1.0

    with pytest.raises(
        ConfigError, match=r"the agent \(`.*agent`\) can't be handed to a runner process: TypeError.*lock"
    ):
        run(agent, [1], tmp_path)

    class Locked(agl.Hook):
        lock = threading.Lock()

        def __init__(self) -> None:
            self.own = lock

    @agl.rollout
    def fine(task: int) -> float:
        return 1.0

    with pytest.raises(ConfigError, match=r"`hooks` .* can't be handed to a runner process"):
        run(fine, [1], tmp_path, hooks=Locked())


def test_the_run_ends_with_the_error_of_its_algorithm(tmp_path: Path):
    @agl.rollout
    def agent(task: int) -> float:
        return 1.0

    async def during(store: Any, ids: list[str]) -> None:
        await store.wait_for_rollouts(rollout_ids=ids)
        raise ZeroDivisionError("in the algorithm")

    with pytest.raises(ZeroDivisionError, match="in the algorithm"):
        run(agent, [1], tmp_path, during=during)


def test_rollouts_under_way_are_finished_or_end_as_unresponsive(tmp_path: Path):
    store = agl.InMemoryLightningStore()

    class Leave(agl.Algorithm):
        async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
            store = self.get_store()
            for task in train_dataset:
                await store.enqueue_rollout(task)
            endless = (await store.query_rollouts())[1].rollout_id
            while len(await store.query_spans(endless)) == 0:  # noqa: ASYNC110  # spans can't be awaited
                await asyncio.sleep(0.01)

    @agl.rollout
    async def agent(task: int) -> float:
        if task == 1:
            agl.emit_reward(0.5)  # goes to the store at once, so the algorithm knows that both have begun
            await asyncio.Event().wait()
        await asyncio.sleep(0.2)
        return 1.0

    strategy = ClientServerExecutionStrategy(graceful_timeout=1.0)
    trainer = agl.Trainer(
        algorithm=Leave(), strategy=strategy, store=store, max_concurrency=2, run_dir=tmp_path / "run"
    )
    trainer.fit(agent, [0, 1])
    short, endless = asyncio.run(_attempts(store))
    assert short.status == "succeeded"
    assert endless.status == "unresponsive"
    assert endless.metadata is not None
    assert endless.metadata["error"]["type"] == "RunnerStopped"


async def _attempts(store: Any) -> list[agl.Attempt]:
    return [rollout.attempt for rollout in await store.query_rollouts(sort_by="start_time")]


def test_runners_that_end_by_themselves_and_leave_rollouts_are_an_error(tmp_path: Path):
    @agl.rollout
    def agent(task: int) -> float:
        return 1.0

    trainer = agl.Trainer(
        algorithm=Collect(), strategy="cs", max_rollouts=1, store=agl.InMemoryLightningStore(), run_dir=tmp_path / "r"
    )
    with pytest.raises(RuntimeError, match="all runners have ended; raise `max_rollouts`"):
        trainer.fit(agent, [1, 2])


def test_the_one_runner_may_be_in_this_process(tmp_path: Path):
    pids: list[int] = []

    @agl.rollout
    async def agent(task: int) -> float:
        assert threading.current_thread() is threading.main_thread()
        pids.append(os.getpid())
        return 1.0

    assert run(agent, [1], tmp_path, main_process="runner").rewards == [1.0]
    assert pids == [os.getpid()]


SCRIPT = """
import asyncio, os, sys
import agentlightning as agl

FACTOR = 3
print("top of the script", os.getpid(), file=sys.stderr)

def times(task):
    return FACTOR * task

@agl.rollout
async def agent(task):
    return float(times(task))

@agl.algo
async def collect(store, train_dataset):
    ids = [(await store.enqueue_rollout(task)).rollout_id for task in train_dataset]
    await store.wait_for_rollouts(rollout_ids=ids)
    spans = [await store.query_spans(i) for i in ids]
    print([agl.find_final_reward(list(s)) for s in spans])

agl.Trainer(algorithm=collect, strategy="cs", n_runners=2, run_dir="run").fit(agent, [1, 2, 3])
"""


def test_a_script_needs_no_main_guard(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[3.0, 6.0, 9.0]\n"
    assert done.stderr.count("top of the script") == 1


def test_a_module_beside_the_script_is_found(tmp_path: Path):
    (tmp_path / "my_agent.py").write_text(
        textwrap.dedent("""
        import threading
        import agentlightning as agl

        LOCK = threading.Lock()  # could not be copied, but a module is imported

        @agl.rollout
        def agent(task):
            with LOCK:
                return float(task)
        """)
    )
    (tmp_path / "script.py").write_text(
        SCRIPT.replace("async def agent(task):", "async def unused(task):").replace(
            "import agentlightning as agl", "import agentlightning as agl\nfrom my_agent import agent"
        )
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1.0, 2.0, 3.0]\n"


# -- stores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["shm", "cs"])
def test_a_store_that_is_served_elsewhere(tmp_path: Path, strategy: str):
    @agl.rollout
    def agent(task: int) -> float:
        return float(task)

    home = agl.InMemoryLightningStore()
    server = LightningStoreServer(home)
    asyncio.run(server.start())
    try:
        algorithm = Collect()
        store = LightningStoreClient(server.endpoint)
        agl.Trainer(algorithm=algorithm, strategy=strategy, store=store, run_dir=tmp_path / "run").fit(agent, [1, 2])
        assert algorithm.rewards == [1.0, 2.0]
        assert asyncio.run(home.statistics())["total_rollouts"] == 2
    finally:
        asyncio.run(server.stop())


def test_a_server_that_runs_already_is_not_served_again(tmp_path: Path):
    @agl.rollout
    def agent(task: int) -> float:
        return float(task)

    server = LightningStoreServer(agl.InMemoryLightningStore())
    asyncio.run(server.start())
    endpoint = server.endpoint
    try:
        algorithm = Collect()
        agl.Trainer(algorithm=algorithm, strategy="cs", store=server, run_dir=tmp_path / "run").fit(agent, [1])
        assert algorithm.rewards == [1.0]
        assert (server.is_running(), server.endpoint) == (True, endpoint)
    finally:
        asyncio.run(server.stop())


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "arguments", "expected"),
    [
        ({}, {}, ("both", "127.0.0.1", None, True)),
        ({}, {"role": "algorithm"}, ("algorithm", "127.0.0.1", 4747, True)),
        ({"AGL_CURRENT_ROLE": "runner", "AGL_SERVER_HOST": "h"}, {}, ("runner", "h", 4747, True)),
        ({"AGL_CURRENT_ROLE": "runner", "AGL_SERVER_PORT": "5"}, {"role": "both"}, ("both", "127.0.0.1", 5, True)),
        ({"AGL_SERVER_PORT": "5", "AGL_MANAGED_STORE": "no"}, {"server_port": 6}, ("both", "127.0.0.1", 6, False)),
        ({"AGL_MANAGED_STORE": "0"}, {"managed_store": True}, ("both", "127.0.0.1", None, True)),
    ],
)
def test_arguments_win_over_variables_and_those_over_defaults(
    environment: dict[str, str], arguments: dict[str, Any], expected: Any, monkeypatch: pytest.MonkeyPatch
):
    for name in ("AGL_CURRENT_ROLE", "AGL_SERVER_HOST", "AGL_SERVER_PORT", "AGL_MANAGED_STORE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = ClientServerExecutionStrategy(**arguments)
    assert (made.role, made.server_host, made.server_port, made.managed_store) == expected


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"role": "server"}, "`role` .* is 'server'; give `algorithm`, `runner` or `both`"),
        ({"n_runners": 0}, "`n_runners` must be at least 1, not 0"),
        ({"main_process": "both"}, "`main_process` is 'both'"),
        ({"main_process": "runner", "n_runners": 2}, "needs `role='both'` and one runner"),
        ({"main_process": "runner", "role": "algorithm"}, "needs `role='both'` and one runner"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        ClientServerExecutionStrategy(**arguments)


async def test_a_notebook_is_told_what_to_do():
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        ClientServerExecutionStrategy().execute(None, None, None)  # type: ignore[arg-type]
