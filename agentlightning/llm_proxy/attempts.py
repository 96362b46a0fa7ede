"""What the gateway remembers of each attempt: how it samples, its seed, how many calls it has made and how many run.

Called by `gateway` for every captured call; asks the store once an attempt, on its first call.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from agentlightning.semconv import LLM_CALL_NUMBER, LLM_CALL_SPAN, attempt_trace_id
from agentlightning.store.base import LightningStore
from agentlightning.types import TERMINAL_ATTEMPT, TERMINAL_ROLLOUT, AttemptedRollout, RequestError, Rollout

MAX_ATTEMPTS = 16_384
"""How many attempts are remembered at once. Of those that have no running call the one that called longest ago is
forgotten first; its numbers go on from what the store has. An entry is a few hundred bytes."""


@dataclass(slots=True)
class AttemptState:
    """One attempt, as far as the gateway needs to know it."""

    rollout_id: str
    attempt_id: str
    trace_id: str
    sampling: str
    """Which of the gateway's `sampling_parameters` count: `rollout.metadata["sampling"]`, by default the mode."""
    seed: Any
    """`rollout.metadata["seed"]`; `None`: the backend samples as it likes."""
    start_time: float
    """When it began, in seconds since the epoch by the store's clock."""
    calls: int = 0
    """Calls begun so far, failed ones included."""
    running: int = 0
    """Calls that have no span yet."""
    complete: bool = False
    """Whether its runner has said that the agent has ended: no call is taken any more."""
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.contextmanager
    def calling(self) -> Generator[int]:
        """One call, from its arrival to its span: its number, from 1.

        Raises:
            RequestError: 409, the attempt is complete.
        """
        if self.complete:
            raise RequestError(
                f"attempt `{self.attempt_id}` of rollout `{self.rollout_id}` is complete: its agent has ended",
                status=409,
                code="ended_attempt",
            )
        self.calls += 1
        self.running += 1
        try:
            yield self.calls
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def finish(self) -> None:
        """Take no more calls, and wait for those that run."""
        self.complete = True
        while self.running:
            self._idle.clear()
            await self._idle.wait()


def call_seed(seed: Any, number: int) -> int:
    """The sampling seed of call `number` (from 1) of an attempt: a stable number below 2**63.

    The first 8 bytes of BLAKE2b over the text `<seed>/<number>`, big-endian, without the lowest bit. Every attempt of
    a rollout has the same seeds, so a repeated attempt of a deterministic agent gives the same tokens.
    """
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Attempts:
    """The attempts that called last. Lives in one event loop.

    Args:
        limit: How many are remembered.
    """

    def __init__(self, limit: int = MAX_ATTEMPTS) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[str, str], AttemptState] = OrderedDict()
        self._loading: dict[tuple[str, str], asyncio.Task[AttemptState]] = {}

    async def get(self, store: LightningStore, rollout_id: str, attempt_id: str) -> AttemptState:
        """The state of an attempt, loaded if this is its first call.

        Raises:
            RequestError: 404 if the store does not know the rollout, 409 if the attempt is not its latest one or has
                ended, 503 if the store fails.
        """
        key = (rollout_id, attempt_id)
        state = self._known.get(key)
        if state is not None:
            self._known.move_to_end(key)
            return state
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(_load(store, rollout_id, attempt_id))
            task.add_done_callback(lambda done: self._loaded(key, done))
        state = await asyncio.shield(task)  # one caller that goes away must not take the others with it
        return self._known.setdefault(key, state)  # it may have been pushed out before its first caller came here

    def find(self, rollout_id: str, attempt_id: str) -> AttemptState | None:
        """The state of an attempt that has called, without asking the store."""
        return self._known.get((rollout_id, attempt_id))

    async def finish(self) -> None:
        """Take no more calls of any attempt, and wait for those that run."""
        for state in list(self._known.values()):
            await state.finish()

    def forget(self, rollout_id: str, attempt_id: str) -> None:
        """Ask the store again at the next call."""
        self._known.pop((rollout_id, attempt_id), None)

    def _loaded(self, key: tuple[str, str], task: asyncio.Task[AttemptState]) -> None:
        del self._loading[key]
        if task.cancelled() or task.exception() is not None:
            return  # whoever waits gets the exception; the next call asks the store again
        self._known[key] = task.result()
        # Never one whose calls run: `complete` would not wait for them.
        idle = (known for known, state in self._known.items() if not state.running)
        for known in list(islice(idle, max(len(self._known) - self._limit, 0))):
            del self._known[known]


async def _load(store: LightningStore, rollout_id: str, attempt_id: str) -> AttemptState:
    try:
        rollout = await store.get_rollout_by_id(rollout_id)
        made = await _calls_made(store, rollout)
    except Exception as error:
        raise RequestError(f"the store could not be asked for rollout `{rollout_id}`: {error}", status=503) from error
    if rollout is None:
        raise RequestError(f"the store knows no rollout `{rollout_id}`", status=404, code="unknown_rollout")
    latest = rollout.attempt if isinstance(rollout, AttemptedRollout) else None
    if latest is None or latest.attempt_id != attempt_id:
        raise RequestError(
            f"`{attempt_id}` is not the latest attempt of rollout `{rollout_id}`"
            f" ({f'which is `{latest.attempt_id}`' if latest else 'which has none'}); stop this agent",
            status=409,
            code="stale_attempt",
        )
    if latest.status in TERMINAL_ATTEMPT or rollout.status in TERMINAL_ROLLOUT:
        raise RequestError(
            f"attempt `{attempt_id}` of rollout `{rollout_id}` has ended"
            f" (attempt `{latest.status}`, rollout `{rollout.status}`); stop this agent",
            status=409,
            code="ended_attempt",
        )
    metadata = rollout.metadata or {}
    sampling = str(metadata.get("sampling") or rollout.mode or "")
    trace_id = attempt_trace_id(rollout_id, attempt_id)
    return AttemptState(rollout_id, attempt_id, trace_id, sampling, metadata.get("seed"), latest.start_time, calls=made)


async def _calls_made(store: LightningStore, rollout: Rollout | None) -> int:
    """How many calls the attempt has made already, through a gateway that was here before or that forgot it."""
    if not isinstance(rollout, AttemptedRollout) or rollout.attempt.status == "preparing":
        return 0
    spans = await store.query_spans(rollout.rollout_id, rollout.attempt.attempt_id, name=LLM_CALL_SPAN)
    numbers = [span.attributes.get(LLM_CALL_NUMBER) for span in spans]
    return max((number for number in numbers if isinstance(number, int)), default=0)
