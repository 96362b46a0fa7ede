"""What a trainer makes of its arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.execution import ClientServerExecutionStrategy, SharedMemoryExecutionStrategy
from agentlightning.runner import LitAgentRunner
from agentlightning.tracer import OtelTracer, Tracer
from agentlightning.trainer.bundle import AgentRunnerBundle
from agentlightning.types import ConfigError


class Counting(LitAgentRunner[Any]):
    """A runner class of a user's."""

    made: list[int] = []  # noqa: RUF012

    def init_worker(self, worker_id: int, store: Any) -> None:
        super().init_worker(worker_id, store)
        self.made.append(id(self))


class Quiet(Tracer):
    pass


@pytest.fixture(autouse=True)
def no_role(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AGL_CURRENT_ROLE", "AGL_SERVER_PORT"):
        monkeypatch.delenv(name, raising=False)


@agl.rollout
def agent(task: float) -> float:
    return float(task)


def test_the_default_is_this_process():
    trainer = agl.Trainer()
    assert type(trainer.strategy) is SharedMemoryExecutionStrategy
    assert (trainer.n_runners, trainer.strategy.n_runners) == (1, 1)
    assert isinstance(trainer.tracer, OtelTracer)


@pytest.mark.parametrize(
    "spec",
    [
        "cs",
        ClientServerExecutionStrategy,
        "agentlightning.execution.client_server.ClientServerExecutionStrategy",
        {"type": "cs", "graceful_timeout": 10.0},
        lambda: ClientServerExecutionStrategy(n_runners=3),
    ],
)
def test_a_strategy_may_be_given_in_every_way(spec: Any):
    trainer = agl.Trainer(strategy=spec, n_runners=3, port=5000)
    assert isinstance(trainer.strategy, ClientServerExecutionStrategy)
    assert (trainer.strategy.n_runners, trainer.strategy.server_port) == (3, 5000)


def test_the_runners_of_a_given_strategy_count(caplog: pytest.LogCaptureFixture):
    trainer = agl.Trainer(strategy=SharedMemoryExecutionStrategy(n_runners=4), n_runners=2)
    assert (trainer.n_runners, trainer.strategy.n_runners) == (4, 4)
    assert "that of `strategy` is 4, which is taken" in caplog.text


def test_a_port_or_a_role_means_runner_processes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    strategy = agl.Trainer(port=4800).strategy
    assert isinstance(strategy, ClientServerExecutionStrategy)
    assert strategy.server_port == 4800
    agl.Trainer(strategy="shm", port=4800)
    assert "`port` is for a strategy that serves the store" in caplog.text
    monkeypatch.setenv("AGL_CURRENT_ROLE", "algorithm")
    assert agl.Trainer().strategy.role == "algorithm"
    assert type(agl.Trainer(strategy="shm").strategy) is SharedMemoryExecutionStrategy


def test_old_names_still_work_and_say_so():
    with pytest.warns(DeprecationWarning, match=r"n_workers.*`n_runners`"):
        assert agl.Trainer(n_workers=3).n_runners == 3
    with pytest.warns(DeprecationWarning, match=r"max_tasks.*`max_rollouts`"):
        assert agl.Trainer(max_tasks=3).max_rollouts == 3
    with pytest.warns(DeprecationWarning, match=r"triplet_exporter.*`adapter`"):
        assert isinstance(agl.Trainer(triplet_exporter={}).adapter, agl.TracerTraceToTriplet)
    with pytest.warns(DeprecationWarning, match="dev"):
        agl.Trainer(dev=True)


def test_components_by_class_path_and_dictionary():
    trainer = agl.Trainer(
        algorithm="agentlightning.algorithm.Baseline",
        store={"type": "agentlightning.store.InMemoryLightningStore", "retention": 5},
        tracer=Quiet,
        adapter={"type": "agentlightning.adapter.LlmProxyTraceToTriplet"},
        llm_proxy={"port": 0},
        runner={"type": f"{__name__}.Counting", "poll_interval": 1.0},
        max_concurrency=7,
        max_rollouts=9,
    )
    assert isinstance(trainer.algorithm, agl.Baseline)
    assert isinstance(trainer.store, agl.InMemoryLightningStore)
    assert isinstance(trainer.adapter, agl.LlmProxyTraceToTriplet)
    assert trainer.llm_proxy is not None
    assert trainer.llm_proxy.get_store() is trainer.store
    assert isinstance(trainer.runner, Counting)
    assert isinstance(trainer.runner.tracer, Quiet)
    assert (trainer.runner.max_concurrency, trainer.runner.max_rollouts) == (7, 9)
    assert trainer.runner.poll_interval == 1.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"strategy": "sch"}, r"`strategy` is 'sch'.*shm, cs"),
        ({"store": "no.such.Store"}, r"'no.such.Store' can't be imported"),
        ({"runner": {"poll_interval": 1.0}}, "`runner` is a mapping without `type`"),
        ({"algorithm": lambda store: None}, r"`algorithm` can't be used: .*@agl.algo"),
        ({"max_rollouts": 0}, "`max_rollouts` must be at least 1"),
    ],
)
def test_wrong_components(options: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        agl.Trainer(**options)


@pytest.mark.parametrize("name", ["max_concurrency", "max_rollouts"])
def test_a_ready_made_runner_keeps_its_settings_and_others_are_refused(name: str):
    ready = agl.LitAgentRunner(agl.OtelTracer(), max_rollouts=3, max_concurrency=3)
    options: dict[str, Any] = {name: 2}
    with pytest.raises(ConfigError, match=f"`{name}` is 2 and that of `runner` is 3; give it to the runner alone"):
        agl.Trainer(runner=ready, **options)
    options[name] = 3
    assert agl.Trainer(runner=ready, **options).runner is ready
    assert agl.Trainer(runner=ready).runner is ready


def test_each_worker_has_a_runner_of_its_own():
    Counting.made.clear()
    trainer = agl.Trainer(n_runners=3, runner=Counting, max_concurrency=2)
    result = trainer.dev(agent, [0.5] * 12)
    assert result.rewards == [0.5] * 12
    assert len(set(Counting.made)) == len(Counting.made) == 3
    assert id(trainer.runner) not in Counting.made


def test_dev_in_runner_processes():
    @agl.rollout
    def where(task: int) -> float:
        return float(os.getpid())

    result = agl.Trainer(strategy="cs").dev(where, [1, 2])
    assert len(set(result.rewards)) == 1
    assert os.getpid() not in result.rewards


def test_our_own_algorithms_try_a_lost_worker_again():
    result = agl.Trainer().dev(agent, [1.0])
    config = result.rollouts[0].config
    assert (config.max_attempts, config.retry_condition) == (3, ["unresponsive"])


def test_a_bundle_names_what_can_not_travel_by_the_name_the_user_knows(tmp_path: Path):
    bundle = AgentRunnerBundle(agent, hooks=(agl.Hook(),), tracer=Quiet())
    assert list(bundle.parts) == ["the agent", "`hooks`", "`tracer`", "`runner`"]
