"""`Algorithm`: decides what to run next and learns from what was recorded.

The trainer hands an algorithm the store (and whatever else it was given) and calls `run`. An algorithm talks to
runners through the store only.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning.store.base import LightningStore
from agentlightning.types import Dataset, NamedResources

if TYPE_CHECKING:
    from agentlightning.adapter.base import TraceAdapter
    from agentlightning.llm_proxy import LLMProxy
    from agentlightning.trainer import Trainer


T = TypeVar("T")


class Algorithm:
    """Base of all algorithms. Override `run`, as a coroutine or as a plain method."""

    run_dir: Path | None = None
    """Where this run keeps its files; set by `Trainer.fit`, `None` in `Trainer.dev`."""
    resume: bool = False
    """Whether to go on with what `run_dir` holds; set by `Trainer.fit`."""
    max_iterations: int | None = None
    """Bound on the outer loop (training steps, beam rounds, rollout-train rounds); set by the trainer."""
    _trainer: Trainer | None = None
    _store: LightningStore | None = None
    _llm_proxy: LLMProxy | None = None
    _adapter: TraceAdapter[Any] | None = None
    _initial_resources: NamedResources | None = None

    def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> Any:
        """Learn. Returns when done; a coroutine function is awaited."""
        raise NotImplementedError(f"`{type(self).__name__}` must define `run`")

    def is_async(self) -> bool:
        """Whether `run` is a coroutine function."""
        return inspect.iscoroutinefunction(self.run)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def check(self) -> None:
        """Raise `ConfigError` for what can be known to be wrong before a run directory is made."""

    def check_resume(self, recorded: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where the run to resume was begun with settings that must not change.

        Args:
            recorded: What `describe` returned when the run was begun; empty where it was killed before that.
        """

    def default_datasets(self) -> tuple[Dataset[Any] | None, Dataset[Any] | None]:
        """Train and validation data that the algorithm's own configuration names."""
        return None, None

    def describe(self) -> Mapping[str, Any]:
        """What to write into the run directory's `config.json`."""
        return {"algorithm": type(self).__name__}

    # -- turns of a `Sequence` --------------------------------------------------------------------------------------

    goes_on: bool = False
    """Whether a further turn goes on in the directory of the last one, as training does; else each has its own."""

    def begin_turn(self, number: int, of: int) -> None:
        """Prepare for turn `number`, from 0, of `of` turns."""

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[NamedResources, None]:
        """The models that it trains, as resources for the agents of others while it does not train."""
        yield {}

    def tuned_resources(self) -> NamedResources:
        """What the last `run` made better, for the algorithms after it."""
        return {}

    # -- what the trainer provides ----------------------------------------------------------------------------------

    def set_trainer(self, trainer: Trainer) -> None:
        """Remember the trainer."""
        self._trainer = trainer

    def get_trainer(self) -> Trainer:
        """The trainer that runs this algorithm; `ValueError` when there is none."""
        return self._need(self._trainer, "trainer")

    def set_store(self, store: LightningStore) -> None:
        """Remember the store."""
        self._store = store

    def get_store(self) -> LightningStore:
        """The store; `ValueError` when there is none."""
        return self._need(self._store, "store")

    def set_llm_proxy(self, llm_proxy: LLMProxy | None) -> None:
        """Remember the gateway."""
        self._llm_proxy = llm_proxy

    def get_llm_proxy(self) -> LLMProxy | None:
        """The gateway that the trainer was given, if any."""
        return self._llm_proxy

    def set_adapter(self, adapter: TraceAdapter[Any]) -> None:
        """Remember the adapter."""
        self._adapter = adapter

    def get_adapter(self) -> TraceAdapter[Any]:
        """The adapter; `ValueError` when there is none."""
        return self._need(self._adapter, "adapter")

    def set_initial_resources(self, resources: NamedResources) -> None:
        """Resources to start from."""
        self._initial_resources = resources

    def get_initial_resources(self) -> NamedResources | None:
        """Resources to start from, if any."""
        return self._initial_resources

    def _need(self, value: T | None, name: str) -> T:
        if value is None:
            raise ValueError(
                f"`{type(self).__name__}` has no {name}: run it through `Trainer.fit`, or call `set_{name}`"
            )
        return value


class FastAlgorithm(Algorithm):
    """An algorithm that is done in moments: what `Trainer.dev` runs to try an agent. Learns nothing."""
