"""`Written`: the memory of `writer` in the store. One rollout for each request, without a runner."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from agentlightning.adapter.reading import answer_messages
from agentlightning.semconv import (
    GEN_AI_OUTPUT_MESSAGES,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    LLM_CALL_SPAN,
)
from agentlightning.store.base import LightningStore
from agentlightning.types import AttemptedRollout, Rollout, Span

from .budget import Call, Usage

logger = logging.getLogger(__name__)

METADATA = "apo"
"""Key of metadata, of rollouts and of attempts; shared with `trials`, whose rollouts have no `call` in it."""
FATAL, LOST = "fatal", "lost"
"""Why there is no reply although another process may get one: the run ended with it, or was killed before."""
_AT_ONCE = 500
"""Requests whose replies are read in one round trip."""

Attempt = tuple[str, str]
"""Rollout id, attempt id."""


class Request(NamedTuple):
    """What to ask for."""

    purpose: str
    """`critic`, `editor`, ...: for people who read the store."""
    model: str
    messages: Sequence[Mapping[str, Any]]
    slot: str
    """Where in the run, such as `3/5`: the same request in another slot is another sample."""


@dataclass(slots=True)
class Record:
    """What became of one request."""

    model: str
    text: str = ""
    cut: bool = False
    failed: str = ""
    """Why there is no reply: the kind of the last fault, `budget`, `fatal` or `lost`. Empty where there is one."""
    usage: Usage = field(default=Usage(tries=0))
    """Of all tries."""
    faults: dict[str, int] = field(default_factory=dict[str, int])
    """Kind -> tries that ended so."""

    def add(self, usage: Usage) -> None:
        """One more try."""
        self.usage = Usage(*(a + b for a, b in zip(self.usage, usage, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """All but model and text."""
        return {"failed": self.failed, "cut": self.cut, "usage": list(self.usage), "faults": self.faults}


class Written:
    """Writes requests and their replies to the store, and reads them back.

    Args:
        store: Where they are.
        scope: Only requests of the same one are read.
    """

    def __init__(self, store: LightningStore, scope: str) -> None:
        self._store = store
        self._scope = scope
        self.known: dict[str, Record] = {}
        """What was found, by key."""
        self.lost: dict[str, list[Record]] = {}
        """What was paid for requests that are to be asked again, by key."""

    async def begin(self, key: str, request: Request, most: Call) -> Attempt:
        """Before it is sent, so that a killed process has not spent what nobody knows of."""
        what = {"call": key, "scope": self._scope, "purpose": request.purpose, "slot": request.slot}
        messages = [dict(message) for message in request.messages]
        rollout = await self._store.start_rollout(
            input={"purpose": request.purpose, "model": request.model, "messages": messages},
            metadata={METADATA: {**what, "most": [most.input_tokens, most.output_tokens]}},
        )
        return rollout.rollout_id, rollout.attempt.attempt_id

    async def note(self, attempt: Attempt, record: Record) -> None:
        """A try that ended without a reply; another follows."""
        await self._store.update_attempt(*attempt, metadata={METADATA: record.to_json()})

    async def end(self, attempt: Attempt, record: Record) -> None:
        """The reply, or that there is none."""
        metadata: dict[str, Any] = {METADATA: record.to_json()}
        if record.failed:
            metadata["error"] = {"type": record.failed, "message": "no reply from the LLM"}
        spans = [] if record.failed else [_span(attempt, record)]
        await self._store.end_attempt(*attempt, "failed" if record.failed else "succeeded", spans, metadata)

    async def load(self) -> int:
        """Read what earlier processes wrote; how many requests there are."""
        found = [
            (key, rollout)
            for rollout in await self._store.query_rollouts(sort_by="start_time")
            if isinstance(rollout, AttemptedRollout) and (key := self._key_of(rollout))
        ]
        for start in range(0, len(found), _AT_ONCE):
            await self._read(found[start : start + _AT_ONCE])
        return len(found)

    async def _read(self, found: list[tuple[str, AttemptedRollout]]) -> None:
        spans = await self._store.query_many_spans([(each.rollout_id, each.attempt.attempt_id) for _, each in found])
        for key, rollout in found:
            record = _record(rollout, spans.get(rollout.rollout_id, []))
            if rollout.status != "succeeded" and not record.failed:
                await self._bury(rollout, record)
            if record.failed in (FATAL, LOST):
                self.lost.setdefault(key, []).append(record)
            else:
                self.known[key] = record

    async def _bury(self, rollout: AttemptedRollout, record: Record) -> None:
        """The process was killed while it waited: the try counts with the most that it may have taken."""
        most: list[int] = _metadata(rollout.metadata).get("most", [0, 0])
        record.failed = LOST
        record.add(Usage(most[0], most[1]))
        if rollout.status != "cancelled":  # `Trainer.fit` cancels what was under way before a run is resumed
            await self.end((rollout.rollout_id, rollout.attempt.attempt_id), record)

    def _key_of(self, rollout: Rollout) -> str | None:
        what = _metadata(rollout.metadata)
        return what.get("call") if what.get("scope") == self._scope else None


def _metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    return (metadata or {}).get(METADATA) or {}


def _record(rollout: AttemptedRollout, spans: list[Span]) -> Record:
    what = _metadata(rollout.attempt.metadata)
    said = [message.get("content") for span in spans for message in answer_messages(span)]
    return Record(
        rollout.input["model"],
        text=str(said[-1]) if said else "",
        cut=what.get("cut", False),
        failed=what.get("failed", ""),
        usage=Usage(*what.get("usage", (0, 0, 0))),
        faults=dict(what.get("faults", {})),
    )


def _span(attempt: Attempt, record: Record) -> Span:
    said = orjson.dumps([{"role": "assistant", "content": record.text}]).decode()
    return Span.create(
        LLM_CALL_SPAN,
        rollout_id=attempt[0],
        attempt_id=attempt[1],
        attributes={
            GEN_AI_REQUEST_MODEL: record.model,
            GEN_AI_OUTPUT_MESSAGES: said,
            GEN_AI_USAGE_INPUT_TOKENS: record.usage.input_tokens,
            GEN_AI_USAGE_OUTPUT_TOKENS: record.usage.output_tokens,
        },
    )
