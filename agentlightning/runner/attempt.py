"""`Execution`: one attempt, from its start to its final status. Made by `agent_runner` for each rollout.

In this order: resources, the agent within its trace, the gateways' word that the store has all LLM calls (`records`),
all other spans and the final status in one call; so a succeeded attempt has all its spans. Whatever is wrong with the
agent or its data ends the attempt as failed. An attempt that no longer counts (`LeaseLostError`) is dropped: its agent
is stopped and nothing is written any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from agentlightning.execution.host import host
from agentlightning.litagent import LitAgent
from agentlightning.litagent.litagent import executing_runner
from agentlightning.store.base import LightningStore
from agentlightning.tracer import AttemptTrace, Tracer
from agentlightning.types import (
    AttemptedRollout,
    AttemptStatus,
    LeaseLostError,
    NamedResources,
    NotFoundError,
    Span,
    StoreClosedError,
    StoreUnavailableError,
)

from .base import Runner
from .calls import AgentTimeout, call_agent
from .hooks import Hook, trigger
from .records import MissingRecords, Records, gateways_of
from .resources import ResourceCache
from .results import error_metadata, exception_span, result_spans

logger = logging.getLogger(__name__)

STORE_GONE = (StoreClosedError, StoreUnavailableError)
"""Errors after which a runner can't work."""


HUNG_AFTER_S = 3.0
"""How long after an agent's timeout it may go on before its process counts as hung: it needs a second to cancel."""
PATIENCE_S = 120.0
"""How long a process may take for the rest of an attempt before it counts as hung. Not the agent's time: a store that
is away is waited for, for about a minute."""


class MissingResources(LookupError):
    """The agent needs resources and the store has none."""


class RunnerStopped(RuntimeError):
    """The runner was stopped before the agent finished."""

    def __init__(self) -> None:
        super().__init__("the runner was stopped before the agent finished")


class Execution:
    """One attempt under way.

    Args:
        rollout: The rollout with its attempt.
        runner: Given to hooks and to the agent.
        agent: What to execute.
        store: Where resources come from; spans and status go there.
        hooks: Called around the attempt.
        cache: The runner's resources.
        records: Asks the gateways.
        agent_done: Called once the runner may begin another attempt: when the agent has finished, though its spans
            are still being written; after `on_rollout_end` if there are hooks.
    """

    def __init__(
        self,
        rollout: AttemptedRollout,
        *,
        runner: Runner[Any],
        agent: LitAgent[Any],
        store: LightningStore,
        hooks: Sequence[Hook],
        cache: ResourceCache,
        records: Records,
        agent_done: Callable[[], None] = lambda: None,
    ):
        self.rollout = rollout
        self.lost: Exception | None = None
        """Why nothing more is to be written, if that is so."""
        self._runner = runner
        self._agent = agent
        self._store = store
        self._tracer: Tracer = runner.tracer
        self._hooks = hooks
        self._cache = cache
        self._records = records
        self._gateways: dict[str, str | None] = {}
        self._unsent: list[Span] = []
        """Spans that go to the store together with the final status."""
        self._agent_done = agent_done
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None

    def lose(self, error: Exception) -> None:
        """Stop the agent and write nothing more: the attempt no longer counts, or the store is gone. Thread-safe."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so the attempt has ended
            self._loop.call_soon_threadsafe(self._lose, error)

    def _lose(self, error: Exception) -> None:
        if self.lost is None:
            self.lost = error
            if self._task is not None:
                self._task.cancel()

    async def run(self) -> Exception | None:
        """Do the attempt; what it failed with, if it did.

        Raises:
            StoreClosedError, StoreUnavailableError: the store is gone.
        """
        executing_runner.set(self._runner)
        self._task = asyncio.current_task()
        attempt_id = self.rollout.attempt.attempt_id
        self._due(PATIENCE_S)
        try:
            return await self._to_the_end()
        finally:
            if (process := host()) is not None:
                process.ended(attempt_id)

    def _due(self, seconds: float) -> None:
        """Tell the process how long it may be until the next sign; only where there is a `timeout_seconds`."""
        if self.rollout.config.timeout_seconds is not None and (process := host()) is not None:
            process.due(self.rollout.attempt.attempt_id, seconds)

    async def _to_the_end(self) -> Exception | None:
        try:
            error = await self._traced()
        except asyncio.CancelledError:
            if self.lost is not None:
                return self._drop(self.lost)
            await self._finish(RunnerStopped())
            raise
        except (LeaseLostError, NotFoundError) as lost:
            return self._drop(lost)
        except (ValueError, TypeError) as unfit:  # the store refuses the agent's spans: bad data, not a bad store
            error = unfit
        try:
            await self._finish(error)
        except (ValueError, TypeError) as unfit:
            error = unfit
            await self._finish(error)  # without them
        return error

    def _drop(self, error: Exception) -> Exception:
        logger.warning("attempt %s is dropped: %s", self.rollout.attempt.attempt_id, error)
        return error

    async def _traced(self) -> Exception | None:
        rollout, store = self.rollout, self._store
        about: dict[str, Any] = {"agent": self._agent, "runner": self._runner, "rollout": rollout}
        ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
        await trigger(self._hooks, "on_rollout_start", **about)
        try:
            async with self._tracer.trace_context(rollout.rollout_id, **ids, store=store) as trace:
                await trigger(self._hooks, "on_trace_start", tracer=self._tracer, **about)
                try:
                    error = await self._run_agent(trace)
                finally:
                    await trigger(self._hooks, "on_trace_end", tracer=self._tracer, **about)
                if not self._hooks:  # which see the spans in the store before the attempt ends
                    self._unsent = trace.take()
                    self._agent_done()
            return await self._recorded(error)
        finally:
            if self._hooks:
                await trigger(self._hooks, "on_rollout_end", spans=await self._stored_spans(), **about)

    async def _stored_spans(self) -> Sequence[Span]:
        """Those of the attempt; none where the store is gone."""
        if not isinstance(self.lost, STORE_GONE):
            with contextlib.suppress(*STORE_GONE):  # what is written next tells
                return await self._store.query_spans(self.rollout.rollout_id, self.rollout.attempt.attempt_id)
        return []

    async def _recorded(self, error: Exception | None) -> Exception | None:
        """Wait until the store has all LLM calls; what the attempt has failed with after that."""
        if not self._gateways:
            return error
        self._due(PATIENCE_S + self._records.wait)
        try:
            await self._records.confirm(self._gateways)
        except MissingRecords as missing:
            if error is not None:
                logger.warning("rollout %s failed, and misses LLM calls: %s", self.rollout.rollout_id, missing)
                return error
            self._unsent.append(exception_span(missing, self.rollout))
            return missing
        return error

    async def _run_agent(self, trace: AttemptTrace) -> Exception | None:
        rollout = self.rollout
        try:
            resources = await self._resources()
            entry = self._agent.entry(rollout.mode)
        except STORE_GONE:
            raise
        except Exception as error:  # noqa: BLE001  # a bad rollout is data
            trace.add(exception_span(error, rollout))
            return error
        try:
            timeout = rollout.config.timeout_seconds
            self._due((timeout or 0.0) + HUNG_AFTER_S)
            try:
                result = await call_agent(entry, rollout.input, resources, rollout, timeout=timeout)
            finally:
                self._due(PATIENCE_S)
            spans = result_spans(result, rollout)
        except Exception as error:  # noqa: BLE001  # a bad agent is data
            trace.add(exception_span(error, rollout))
            return error
        for span in spans:
            trace.add(span)
        return None

    async def _resources(self) -> NamedResources:
        resources = await self._cache.get(self._store, self.rollout)
        if resources is None and self._agent.needs_resources:
            raise MissingResources(_no_resources(self.rollout))
        self._gateways = gateways_of(resources or {}, self.rollout)
        return resources or {}

    async def _finish(self, error: Exception | None) -> None:
        """Store the final status, where the attempt still counts."""
        attempt = self.rollout.attempt
        changes: dict[str, Any] = {"status": _status(error)}
        if error is not None:
            logger.info("rollout %s failed: %s: %s", self.rollout.rollout_id, type(error).__name__, error)
            changes["metadata"] = {**(attempt.metadata or {}), "error": error_metadata(error)}
        try:
            spans, self._unsent = self._unsent, []
            await self._store.end_attempt(self.rollout.rollout_id, attempt.attempt_id, spans=spans, **changes)
        except (LeaseLostError, NotFoundError) as lost:
            self._drop(lost)


def _status(error: Exception | None) -> AttemptStatus:
    if error is None:
        return "succeeded"
    if isinstance(error, RunnerStopped):
        return "unresponsive"  # its worker is gone, which is no fault of the agent's
    return "timeout" if isinstance(error, AgentTimeout) else "failed"


def _no_resources(rollout: AttemptedRollout) -> str:
    missing = f"no resources `{rollout.resources_id}`" if rollout.resources_id else "no resources"
    return (
        f"the store has {missing}, and the agent needs some; call `store.add_resources({{...}})` before the rollout "
        "is enqueued, or give the trainer `initial_resources`"
    )
