"""`AgentRunnerBundle`: what an execution strategy runs for each worker. Made by `Trainer` and by `agl runner`.

An object, not a closure, because runner processes get a copy of it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from agentlightning.execution.base import ExecutionEvent
from agentlightning.litagent import LitAgent
from agentlightning.runner import Hook, LitAgentRunner, Runner
from agentlightning.store.base import LightningStore
from agentlightning.tracer import Tracer


class AgentRunnerBundle:
    """Runs an agent for one worker after another, each with a runner of its own.

    Args:
        agent: What to execute.
        hooks: Called around each rollout, in the process that executes it.
        tracer: Of the default runner.
        max_rollouts: A worker ends after so many; `None`: no limit.
        max_concurrency: Rollouts at once in one worker.
        runner: Copied for each worker; `None`: a `LitAgentRunner`.
    """

    def __init__(
        self,
        agent: LitAgent[Any],
        *,
        hooks: Sequence[Hook] = (),
        tracer: Tracer | None = None,
        max_rollouts: int | None = None,
        max_concurrency: int = 1,
        runner: Runner[Any] | None = None,
    ):
        self.parts: dict[str, Any] = {"the agent": agent, "`hooks`": hooks, "`tracer`": tracer, "`runner`": runner}
        """What may not be fit to travel, by the name under which the user knows it."""
        self._agent = agent
        self._hooks = tuple(hooks)
        self._tracer = tracer
        self._max_rollouts = max_rollouts
        self._max_concurrency = max_concurrency
        self._runner = runner

    async def __call__(self, store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        """Execute rollouts of `store` until `event` is set."""
        runner = self._new_runner()
        runner.init(self._agent, hooks=self._hooks)
        try:
            runner.init_worker(worker_id, store)
            try:
                await runner.iter(event=event)
            finally:
                runner.teardown_worker(worker_id)
        finally:
            runner.teardown()

    def _new_runner(self) -> Runner[Any]:
        if self._runner is not None:
            return copy.copy(self._runner)
        from agentlightning.tracer.otel import OtelTracer

        return LitAgentRunner(self._tracer or OtelTracer(), self._max_rollouts, max_concurrency=self._max_concurrency)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "parts": {}}
