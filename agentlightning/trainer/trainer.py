"""`Trainer`: wires an agent, an algorithm, a store and runners together, and starts them.

The wiring is all it does. What to run and what to learn is the algorithm's; where agents run is the execution
strategy's; both sides meet in the store.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning.algorithm.base import Algorithm
from agentlightning.execution.base import ExecutionEvent, ExecutionStrategy
from agentlightning.execution.run import sigint_handled_by
from agentlightning.litagent import LitAgent
from agentlightning.runner import Hook, Runner
from agentlightning.store.base import LightningStore
from agentlightning.tracer import Tracer
from agentlightning.types import AgentLightningError, ConfigError, Dataset, DatasetError, NamedResources

from .bundle import AgentRunnerBundle
from .components import ComponentSpec, build_component
from .parts import (
    deprecated,
    make_adapter,
    make_algorithm,
    make_hooks,
    make_llm_proxy,
    make_runner,
    make_store,
    make_strategy,
    otel_tracer,
    renamed,
)
from .run_dir import default_run_dir, discard_empty_run, open_run, read_config, write_config

if TYPE_CHECKING:
    from agentlightning.adapter.base import TraceAdapter
    from agentlightning.llm_proxy import LLMProxy

T = TypeVar("T")
AnyDataset = Dataset[Any]


class Trainer:
    """Trains an agent.

    Components (`algorithm`, `store`, `strategy`, `runner`, `tracer`, `adapter`, `llm_proxy`) may be given as objects,
    classes, functions without arguments, `"module.Class"`, or dictionaries with `type` and keyword arguments.

    Args:
        agent: The agent, if it is not given to `fit`.
        algorithm: What learns; `Baseline` (in `dev`) learns nothing.
        n_runners: Runners, each executing one rollout at a time (or `max_concurrency` at once); 1 if not given. That
            of a given `strategy` object wins.
        max_concurrency: Rollouts at once in one runner.
        max_rollouts: Each runner stops after so many rollouts; `None`: no limit.
        max_iterations: Bound on the algorithm's outer loop: training steps (VERL), rollouts (Baseline).
        initial_resources: Resources to start from, by name.
        store: Default: SQLite in the run directory (`fit`), memory (`dev`).
        strategy: Where runners execute: `"shm"` in this process, the default; `"cs"` in processes of their own, which
            is the default where `AGL_CURRENT_ROLE` or `port` is given.
        runner: Copied for each worker; default: `LitAgentRunner`. One that is given ready-made has settings of its own.
        tracer: Records what agents do; default: OpenTelemetry. One for all runners.
        adapter: Makes training data of spans.
        llm_proxy: The gateway; algorithms that need one make their own by default.
        hooks: Called around each rollout.
        port: Port of the store's server, for the `"cs"` strategy.
        run_dir: Directory of the run; default `runs/<date>-<time>`.
        daemon: Taken for the sake of Agent-Lightning 0.3: runner processes never outlive this one.
        dev, n_workers, max_tasks, triplet_exporter: Deprecated names of the `dev` method, `n_runners`, `max_rollouts`
            and `adapter`.

    Raises:
        ConfigError: a number below 1, or a component that can't be made.
    """

    def __init__(
        self,
        *,
        dev: bool = False,
        agent: LitAgent[Any] | None = None,
        algorithm: ComponentSpec[Algorithm] = None,
        n_runners: int | None = None,
        max_concurrency: int = 1,
        max_rollouts: int | None = None,
        max_iterations: int | None = None,
        initial_resources: NamedResources | None = None,
        store: ComponentSpec[LightningStore] = None,
        strategy: ComponentSpec[ExecutionStrategy] = None,
        runner: ComponentSpec[Runner[Any]] = None,
        tracer: ComponentSpec[Tracer] = None,
        adapter: ComponentSpec[TraceAdapter[Any]] = None,
        llm_proxy: ComponentSpec[LLMProxy] = None,
        hooks: Hook | Sequence[Hook] | None = None,
        port: int | None = None,
        run_dir: str | Path | None = None,
        daemon: bool = True,
        n_workers: int | None = None,
        max_tasks: int | None = None,
        triplet_exporter: ComponentSpec[TraceAdapter[Any]] = None,
    ) -> None:
        if dev:
            deprecated("dev", "the method `trainer.dev(...)`")
        n_runners = renamed("n_workers", n_workers, "n_runners", n_runners)
        max_rollouts = renamed("max_tasks", max_tasks, "max_rollouts", max_rollouts)
        adapter = renamed("triplet_exporter", triplet_exporter, "adapter", adapter)
        counts: dict[str, Any] = {
            "n_runners": n_runners,
            "max_concurrency": max_concurrency,
            "max_rollouts": max_rollouts,
            "max_iterations": max_iterations,
        }
        for name, value in counts.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"`{name}` must be at least 1, got {value!r}")
        self.agent = agent
        self.max_concurrency = max_concurrency
        self.max_rollouts = max_rollouts
        self.max_iterations = max_iterations
        self.initial_resources = initial_resources
        self.port = port
        self.daemon = daemon
        self.hooks = make_hooks(hooks)
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.algorithm = make_algorithm(algorithm)
        self.strategy = make_strategy(strategy, n_runners, port)
        self.n_runners = self.strategy.n_runners
        self.store = make_store(store)
        self.tracer = build_component(tracer, expected_type=Tracer, spec_name="tracer", default_factory=otel_tracer)
        self.runner = make_runner(runner, self.tracer, max_rollouts, max_concurrency)
        self.adapter = make_adapter(adapter)
        self.llm_proxy = make_llm_proxy(llm_proxy, self.store)

    def fit(
        self,
        agent: LitAgent[Any] | Algorithm | None = None,
        train_dataset: AnyDataset | None = None,
        *,
        val_dataset: AnyDataset | None = None,
        resume: bool = False,
    ) -> None:
        """Train the agent until the algorithm is done.

        Without datasets, tasks come from the algorithm's configuration (`data.train_files`), else from the agent's
        `train_dataset` / `val_dataset`, else from rollouts queued in the store.

        Where this process is only a runner (`AGL_CURRENT_ROLE=runner`) it executes rollouts until the store that is
        served elsewhere closes, and needs neither algorithm nor tasks.

        Args:
            agent: The agent; or the algorithm, where the agent was given to the trainer.
            train_dataset: Tasks to learn from.
            val_dataset: Tasks to measure on.
            resume: Go on with the run in `run_dir`.

        Raises:
            ConfigError: agent or algorithm is missing, or a setting can't be used.
            DatasetError: there are no tasks.
            RunExistsError: `run_dir` holds a run and `resume` is false.
            TrainingError, ModelError: see the algorithm.
        """
        if isinstance(agent, Algorithm):
            algorithm, lit_agent = agent, self.agent
        else:
            algorithm, lit_agent = self.algorithm, agent if agent is not None else self.agent
        if self.strategy.role == "runner":
            self._run_runners(_check_agent(lit_agent))
            return
        lit_agent, algorithm = _check_pair(lit_agent, algorithm)
        algorithm.check()
        datasets = self._datasets(lit_agent, algorithm, train_dataset, val_dataset)
        run_dir = self.run_dir or default_run_dir()
        new = open_run(run_dir, resume=resume)
        algorithm.run_dir, algorithm.resume = run_dir, resume
        store = self.store or _sqlite(run_dir)  # first of all, because it keeps a second trainer out
        try:
            if resume:  # before any runner starts: nobody waits for what the interrupted execution had under way
                algorithm.check_resume(read_config(run_dir))
                _in_new_loop(_cancel_under_way(store))
            write_config(run_dir, algorithm.describe())
            self._run(lit_agent, algorithm, datasets, store)
        except (AgentLightningError, TypeError):
            if new and _in_new_loop(store.statistics())["total_rollouts"] == 0:
                _in_new_loop(store.close())
                discard_empty_run(run_dir)
            raise
        finally:
            if self.store is None:
                _in_new_loop(store.close())

    def dev(
        self,
        agent: LitAgent[Any] | None = None,
        train_dataset: AnyDataset | None = None,
        *,
        val_dataset: AnyDataset | None = None,
    ) -> Algorithm:
        """Try the agent: run every task once in memory, learn nothing, keep nothing.

        Uses the trainer's algorithm where that is a `Baseline`, else a new one. Returns it, with `rollouts` and
        `rewards` to look at.

        Raises:
            TypeError: the trainer's algorithm is another one.
        """
        from agentlightning.algorithm.baseline import Baseline
        from agentlightning.store.memory import InMemoryLightningStore

        algorithm = self.algorithm or Baseline()
        if not isinstance(algorithm, Baseline):
            raise TypeError(f"`dev` runs a `Baseline`, and the trainer has a `{type(algorithm).__name__}`; use `fit`")
        lit_agent, _ = _check_pair(agent if agent is not None else self.agent, algorithm)
        datasets = self._datasets(lit_agent, algorithm, train_dataset, val_dataset)
        algorithm.run_dir, algorithm.resume = None, False
        self._run(lit_agent, algorithm, datasets, self.store or InMemoryLightningStore())
        return algorithm

    # -- data -------------------------------------------------------------------------------------------------------

    def _datasets(
        self, agent: LitAgent[Any], algorithm: Algorithm, train: AnyDataset | None, val: AnyDataset | None
    ) -> tuple[AnyDataset | None, AnyDataset | None]:
        if train is None and val is None:
            train, val = algorithm.default_datasets()
        if train is None and val is None:
            train, val = getattr(agent, "train_dataset", None), getattr(agent, "val_dataset", None)
        if train is None and val is None and self.store is not None:
            train = _in_new_loop(_take_queued(self.store)) or None
        if train is None and val is None:
            raise DatasetError(
                "there are no tasks: give `train_dataset` (or `val_dataset`), set `data.train_files` in the "
                "algorithm's configuration, give the agent a `train_dataset`, or queue rollouts in the store"
            )
        for name, dataset in (("train_dataset", train), ("val_dataset", val)):
            if isinstance(dataset, (str, bytes, Mapping)) or (dataset is not None and not hasattr(dataset, "__len__")):
                raise DatasetError(
                    f"`{name}` is a {type(dataset).__name__}; give a list, or what has a length and rows "
                    "(`agl train` and `data.train_files` read files)"
                )
            if dataset is not None and len(dataset) == 0:
                raise DatasetError(f"`{name}` is empty; it needs at least one task")
        return train, val

    # -- wiring -----------------------------------------------------------------------------------------------------

    def _run(
        self,
        agent: LitAgent[Any],
        algorithm: Algorithm,
        datasets: tuple[AnyDataset | None, AnyDataset | None],
        store: LightningStore,
    ) -> None:
        from agentlightning.adapter import LlmProxyTraceToTriplet

        algorithm.set_trainer(self)
        algorithm.set_adapter(self.adapter or LlmProxyTraceToTriplet())
        algorithm.set_llm_proxy(self.llm_proxy)
        algorithm.max_iterations = self.max_iterations
        if self.initial_resources is not None:
            algorithm.set_initial_resources(self.initial_resources)
        agent.set_trainer(self)

        on_ctrl_c = signal.getsignal(signal.SIGINT)

        async def learn(store: LightningStore, event: ExecutionEvent) -> None:
            algorithm.set_store(store)
            if self.llm_proxy is not None and self.llm_proxy.get_store() is None:
                self.llm_proxy.set_store(store)
            with sigint_handled_by(on_ctrl_c):
                result = algorithm.run(*datasets)
            if algorithm.is_async():
                await result

        _outside_any_loop(lambda: self.strategy.execute(learn, self._runner_bundle(agent), store))

    def _run_runners(self, agent: LitAgent[Any]) -> None:
        async def learn(store: LightningStore, event: ExecutionEvent) -> None:
            raise AssertionError("a process that is only a runner has no algorithm")

        bundle, strategy = self._runner_bundle(agent), self.strategy
        _outside_any_loop(lambda: strategy.execute(learn, bundle, self.store))

    def _runner_bundle(self, agent: LitAgent[Any]) -> AgentRunnerBundle:
        return AgentRunnerBundle(
            agent,
            hooks=self.hooks,
            tracer=self.tracer,
            max_rollouts=self.max_rollouts,
            max_concurrency=self.max_concurrency,
            runner=self.runner,
        )


def _check_agent(agent: Any) -> LitAgent[Any]:
    if agent is None:
        raise ConfigError("there is no agent: `fit(agent, ...)` or `Trainer(agent=...)`")
    if not isinstance(agent, LitAgent):
        raise ConfigError(
            f"the agent is a {type(agent).__name__}; decorate it with `@agl.rollout`, or subclass `agl.LitAgent`"
        )
    return agent  # pyright: ignore[reportUnknownVariableType]


def _check_pair(agent: Any, algorithm: Algorithm | None) -> tuple[LitAgent[Any], Algorithm]:
    found = _check_agent(agent)
    if algorithm is None:
        raise ConfigError(
            "there is no algorithm: `Trainer(algorithm=agl.VERL({...}))`; to only try the agent, use `dev`"
        )
    return found, algorithm


def _sqlite(run_dir: Path) -> LightningStore:
    from agentlightning.store.sql import SqlLightningStore

    return SqlLightningStore(run_dir / "store.sqlite")


async def _take_queued(store: LightningStore) -> list[Any]:
    """Inputs of the queued rollouts, which end as `cancelled`: an algorithm runs tasks in its own way."""
    queued = await store.query_rollouts(status_in=["queuing"])
    for rollout in queued:
        metadata = {**(rollout.metadata or {}), "cancelled": "its task was taken over by `Trainer.fit`"}
        await store.update_rollout(rollout.rollout_id, status="cancelled", metadata=metadata)
    return [rollout.input for rollout in queued]


async def _cancel_under_way(store: LightningStore) -> None:
    for rollout in await store.query_rollouts(status_in=["queuing", "requeuing", "preparing", "running"]):
        await store.update_rollout(rollout.rollout_id, status="cancelled")


def _in_new_loop(coroutine: Any) -> Any:
    return _outside_any_loop(lambda: asyncio.run(coroutine))


def _outside_any_loop(work: Callable[[], T]) -> T:
    """Run `work` here, or in a thread of its own where a loop is running already (a notebook)."""
    if not _in_a_loop():
        return work()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="agl-trainer") as pool:
        return pool.submit(work).result()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
