"""`ExecutionStrategy`: runs one algorithm and several runners against one store, and ends them together.

The trainer builds the two bundles and calls `execute`; a strategy knows nothing of what they do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from agentlightning.store.base import LightningStore

from .events import ExecutionEvent

AlgorithmBundle: TypeAlias = Callable[[LightningStore, ExecutionEvent], Awaitable[None]]
"""`async def algorithm(store, event)`: the run ends when it returns."""
RunnerBundle: TypeAlias = Callable[[LightningStore, int, ExecutionEvent], Awaitable[None]]
"""`async def runner(store, worker_id, event)`: builds a runner of its own and returns soon after `event` is set."""
Role: TypeAlias = Literal["algorithm", "runner", "both"]
"""Which side of a run this process is."""


class ExecutionStrategy:
    """How to run the two sides."""

    n_runners: int
    alias: str = ""
    """Its name in `Trainer(strategy=...)`."""
    role: Role = "both"

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore | None) -> None:
        """Run until the algorithm returns, then stop the runners. Raises what either side raises.

        `store` may be `None` only where `role` is `runner` and the strategy can find the store itself.
        """
        raise NotImplementedError
