"""`Writer`: calls of critic and editor, each paid once and remembered in the store.

Proposers call `ask` with all requests of a phase at once. Each request becomes a rollout of the store without a runner:
its input holds the messages, its only span the reply, its metadata the key by which a resumed run finds it again. A
request that failed for good is remembered too, so that a resumed run takes the same way.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from agentlightning.store.base import LightningStore
from agentlightning.types import AgentLightningError
from agentlightning.utils.seeds import stable_seed

from .budget import BudgetSpent, Call, Ledger, Usage
from .candidate import content_key
from .endpoint import Endpoint
from .faults import MENDED, Fault
from .written import FATAL, LOST, Attempt, Record, Request, Written

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 60.0
"""Seconds between two tries; more only where the endpoint asks for it."""
_LONGEST_ASKED_PAUSE = 300.0
_EMPTY = 3
"""How often a request may be answered with nothing."""
_IN_A_ROW = 20
"""So many requests in a row that all failed end the run: the endpoint is down, and rollouts would be wasted."""
_ANSWER_TOKENS = 8192
"""The longest answer where a budget in tokens or cost needs one and none was given."""


class Reply(NamedTuple):
    """What came back."""

    text: str
    """Never empty."""
    cut: bool = False
    """Whether the model was stopped before its end, so that a prompt would lack its last part."""


class _Task(NamedTuple):
    """A request that is new."""

    request: Request
    key: str
    most: Call
    record: Record


class Writer:
    """Asks critic and editor.

    Args:
        client: `openai.OpenAI` or `openai.AsyncOpenAI`.
        store: Where requests are remembered.
        ledger: What may be spent.
        seed: Of the run: another seed, other samples. Sent to endpoints that take one.
        temperature: Of all requests; `None` leaves it to the endpoint.
        max_tokens: The longest answer. `None`: the endpoint's own limit, or 8192 where the budget has `tokens` or
            `cost`.
        timeout: Seconds for one try; `None`: the client's own.
        max_retries: Further tries after a fault that may pass.
        concurrency: Requests at a time.
        backoff: Seconds before the second try; doubled for each further one.
        scope: What else the answers depend on; another scope, another memory.
    """

    def __init__(
        self,
        client: Any,
        store: LightningStore,
        ledger: Ledger,
        *,
        seed: int = 0,
        temperature: float | None = 1.0,
        max_tokens: int | None = None,
        timeout: float | None = 300.0,
        max_retries: int = 6,
        concurrency: int = 16,
        backoff: float = 1.0,
        scope: str = "",
    ) -> None:
        strict = ledger.budget.tokens is not None or ledger.budget.cost is not None
        self._endpoint = Endpoint(
            client,
            temperature=temperature,
            max_tokens=_ANSWER_TOKENS if max_tokens is None and strict else max_tokens,
            timeout=timeout,
            concurrency=concurrency,
            strict=strict,
        )
        self._ledger = ledger
        self._setting = {"seed": seed, "temperature": temperature, "max_tokens": max_tokens}
        self._max_retries = max_retries
        self._backoff = backoff
        self._at_once = asyncio.Semaphore(concurrency)
        self._written = Written(store, scope)
        self._known: dict[str, Record] = {}
        """Those that were asked for in this process, by key: they count as spent."""
        self._failures: list[tuple[Attempt, Record]] = []
        """Requests in a row that failed."""
        self._last: Fault | None = None
        self._fatal: Fault | None = None

    async def load(self) -> int:
        """Find what an interrupted run asked; how many requests there are. They count when they are asked for again."""
        return await self._written.load()

    async def ask(self, requests: Sequence[Request]) -> list[Reply | None]:
        """Ask all of `requests` at once.

        Returns:
            The replies in order; `None` where all tries failed, which is logged and counted.

        Raises:
            BudgetSpent: they can't all be paid.
            AgentLightningError: the endpoint refuses in a way that no other request would mend.
        """
        keys = [self._key(request) for request in requests]
        new = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key not in self._known and not self._remember(key)
        }
        tasks = [
            _Task(request, key, self._endpoint.most(request.model, request.messages), Record(request.model))
            for key, request in new.items()
        ]
        await self._pay(tasks)
        return [self._reply(key) for key in keys]

    async def close(self) -> None:
        """Close what was opened to ask; the user's client stays as it was."""
        await self._endpoint.close()

    # -- memory -----------------------------------------------------------------------------------------------------

    def _key(self, request: Request) -> str:
        return content_key([*request, self._setting])

    def _remember(self, key: str) -> bool:
        """Whether the store has an answer; what was paid for it counts now, also where it was lost on the way."""
        for record in self._written.lost.pop(key, []):
            self._count(record)
        if (record := self._written.known.pop(key, None)) is None:
            return False
        self._count(record)
        self._known[key] = record
        return True

    def _count(self, record: Record) -> None:
        self._ledger.call_known(record.model, record.usage)
        for kind, times in record.faults.items():
            self._ledger.fault(kind, times)

    def _reply(self, key: str) -> Reply | None:
        record = self._known[key]
        return None if record.failed else Reply(record.text, record.cut)

    # -- requests that are new --------------------------------------------------------------------------------------

    async def _pay(self, tasks: list[_Task]) -> None:
        """All together, or, where only a limit on tokens or cost is in the way, as many at a time as it allows.

        Calls take far less than the most that they may take: what is left of a portion pays the next.
        """
        while tasks:
            try:
                self._ledger.calls([task.most for task in tasks])
                portion, tasks = tasks, []
            except BudgetSpent as spent:
                n = self._ledger.payable([task.most for task in tasks])
                if spent.field not in ("tokens", "cost") or n == 0:
                    raise
                self._ledger.calls([task.most for task in tasks[:n]])
                portion, tasks = tasks[:n], tasks[n:]
            # All come to their end, also beside one that ends the run: they are paid, and remembered.
            for error in await asyncio.gather(*map(self._one, portion), return_exceptions=True):
                if error is not None:
                    raise error
            await self._raise_if_hopeless()

    async def _one(self, task: _Task) -> None:
        async with self._at_once:
            if self._fatal is not None or self._is_hopeless():
                self._ledger.call_done(task.most, Usage(tries=0))
                return
            attempt = await self._written.begin(task.key, task.request, task.most)
            task.record.failed = await self._tries(task, attempt)
            await self._written.end(attempt, task.record)
        self._known[task.key] = task.record
        if not task.record.failed and not self._is_hopeless():  # then others were passed over, and the run must end
            self._failures.clear()
        elif task.record.failed not in ("", "budget", FATAL):
            self._failures.append((attempt, task.record))

    async def _tries(self, task: _Task, attempt: Attempt) -> str:
        """Try until there is a reply. Why there is none; empty where there is one."""
        faults = task.record.faults
        while (fault := await self._try(task)) is not None:
            faults[fault.kind] = faults.get(fault.kind, 0) + 1
            self._ledger.fault(fault.kind)
            passed = sum(times for kind, times in faults.items() if kind not in MENDED)
            if fault.fatal:
                self._fatal = fault
                return FATAL
            if not fault.again or passed > self._max_retries or faults.get("empty", 0) >= _EMPTY:
                return self._give_up(task, fault, fault.kind)
            try:
                self._ledger.calls([task.most])
            except BudgetSpent:
                return self._give_up(task, fault, "budget")
            self._ledger.retried()
            await self._written.note(attempt, task.record)
            await asyncio.sleep(self._pause(fault, passed))
        return ""

    async def _try(self, task: _Task) -> Fault | None:
        record, request = task.record, task.request
        # An empty reply would come again from the same seed; after other faults the reply must not depend on them.
        seed = stable_seed(task.key, record.faults.get("empty", 0)) % 2**31
        fault = None
        try:
            answer = await self._endpoint.ask(request.model, request.messages, seed, record.faults.get("length", 0))
            usage, record.text, record.cut = answer.usage, answer.text, answer.cut
        except Fault as error:
            fault = error
            usage = fault.usage or (Usage(task.most.input_tokens, task.most.output_tokens) if fault.billed else Usage())
        self._ledger.call_done(task.most, usage)
        record.add(usage)
        return fault

    def _pause(self, fault: Fault, passed: int) -> float:
        """Seconds: doubled each time, with jitter so that requests don't come back together; what the endpoint asks."""
        if fault.kind in MENDED:
            return 0.0
        pause = min(_LONGEST_PAUSE, self._backoff * 2 ** (passed - 1)) * random.uniform(0.5, 1.0)
        return max(pause, min(fault.after or 0.0, _LONGEST_ASKED_PAUSE))

    def _give_up(self, task: _Task, fault: Fault, why: str) -> str:
        logger.warning("no reply for %s %s: %s", task.request.purpose, task.request.slot, fault)
        self._last = fault
        return why

    def _is_hopeless(self) -> bool:
        return len(self._failures) >= _IN_A_ROW

    async def _raise_if_hopeless(self) -> None:
        if self._fatal is not None:
            raise AgentLightningError(f"critic and editor can't be asked: {self._fatal}") from self._fatal
        if self._is_hopeless():
            for attempt, record in self._failures:  # a run that goes on asks them again
                record.failed = LOST
                await self._written.note(attempt, record)
            raise AgentLightningError(
                f"the last {len(self._failures)} requests to critic and editor all failed: {self._last}; when the "
                "endpoint answers again, go on with `resume`"
            ) from self._last
