"""`Runner`: the life of a runner, from `init` to `teardown`. Execution strategies and users drive it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any, Generic, Self, TypeVar

from agentlightning.execution.events import ExecutionEvent
from agentlightning.litagent import LitAgent
from agentlightning.store.base import LightningStore
from agentlightning.tracer import Tracer
from agentlightning.types import NamedResources, Rollout, RolloutMode

from .hooks import Hook

T = TypeVar("T")


class Runner(Generic[T]):
    """Executes an agent for one worker: `init`, `init_worker`, `iter` or `step`, `teardown_worker`, `teardown`."""

    tracer: Tracer

    def init(self, agent: LitAgent[T], *, hooks: Sequence[Hook] | None = None) -> None:
        """Take the agent that is to be executed."""
        raise NotImplementedError

    def init_worker(self, worker_id: int, store: LightningStore) -> None:
        """Take the store, and the number that tells this runner from the others."""
        raise NotImplementedError

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Not how a runner is used. Raises `RuntimeError`."""
        raise RuntimeError("a runner has no `run`: use `iter()` for the queue or `step(task)` for one task")

    async def iter(self, *, event: ExecutionEvent | None = None) -> None:
        """Execute rollouts from the queue until `event` is set."""
        raise NotImplementedError

    async def step(
        self,
        input: T,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: ExecutionEvent | None = None,
    ) -> Rollout:
        """Execute one task at once, past the queue; raises what the agent raises."""
        raise NotImplementedError

    def teardown_worker(self, worker_id: int) -> None:
        """Let go of the store."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Let go of the agent."""
        raise NotImplementedError

    @contextlib.contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T],
        store: LightningStore,
        hooks: Sequence[Hook] | None = None,
        worker_id: int | None = None,
    ) -> Generator[Self, None, None]:
        """A runner that is ready for `step` or `iter`, and torn down afterwards.

        Args:
            agent: What to execute.
            store: Where rollouts come from and spans go to.
            hooks: Called around each rollout.
            worker_id: 0 if not given.
        """
        number = worker_id or 0
        self.init(agent, hooks=tuple(hooks or ()))
        self.init_worker(number, store)
        try:
            yield self
        finally:
            self.teardown_worker(number)
            self.teardown()


def as_litagent(agent: Any) -> LitAgent[Any]:
    """`agent` itself if it is one that does something.

    Raises:
        TypeError: it isn't; the message says how to make one.
    """
    if not isinstance(agent, LitAgent):
        raise TypeError(
            f"`agent` must be a `LitAgent`, not {type(agent).__name__}; put `@agl.rollout` over a function, "
            "or give an instance of a class that subclasses `agl.LitAgent`"
        )
    found: LitAgent[Any] = agent
    found.check()
    return found
