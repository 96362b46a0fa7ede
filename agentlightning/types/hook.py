"""`ParallelWorkerBase`, the life of what works for a runner, and `Hook`, a user's code at four moments of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlightning.litagent import LitAgent
    from agentlightning.runner import Runner
    from agentlightning.tracer import Tracer

    from .core import AttemptedRollout
    from .span import Span


class ParallelWorkerBase:
    """Something with a life in a worker: `init`, `init_worker`, `run`, `teardown_worker`, `teardown`."""

    worker_id: int | None = None
    """The number of the worker between `init_worker` and `teardown_worker`."""

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Before any worker begins."""

    def init_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """As worker number `worker_id` begins."""
        self.worker_id = worker_id

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The work."""

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """As worker number `worker_id` ends."""
        self.worker_id = None

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """After all workers have ended."""


class Hook(ParallelWorkerBase):
    """Override what you need. An exception in a hook is logged and changes nothing else."""

    async def on_rollout_start(self, *, agent: LitAgent[Any], runner: Runner[Any], rollout: AttemptedRollout) -> None:
        """Before anything else."""

    async def on_trace_start(
        self, *, agent: LitAgent[Any], runner: Runner[Any], tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Right before the agent: emitters work from here on."""

    async def on_trace_end(
        self, *, agent: LitAgent[Any], runner: Runner[Any], tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Right after the agent, whether it failed, was cut off or not: the last moment at which emitters work."""

    async def on_rollout_end(
        self, *, agent: LitAgent[Any], runner: Runner[Any], rollout: AttemptedRollout, spans: Sequence[Span]
    ) -> None:
        """All `spans` of the attempt are in the store, its final status is not.

        Also where the attempt was cut off; `spans` are then those that the store took.
        """
