"""What the engine generated and what the learner was given, seen from outside while a training runs.

Called by `test_clients.py`. Both are spied on at their public methods; what these return is passed on as it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentlightning.inference.engine import Engine
from agentlightning.inference.sampling import Generation
from agentlightning.learner.batch import Row
from agentlightning.learner.learner import Learner

Call = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids of the prompt and of the response."""


@dataclass
class Watch:
    """What was seen."""

    whole: list[Call] = field(default_factory=list)
    """Generations that were asked for whole."""
    streamed: list[Call] = field(default_factory=list)
    """Generations that were streamed, as they were at their end."""
    trained: list[Call] = field(default_factory=list)
    """Runs of trained tokens in the rows that the learner got, each with all that stands before it in its row."""


def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Look on until the test ends."""
    seen, submit, stream, update = Watch(), Engine.submit, Engine.stream, Learner.update

    def watched_submit(self: Engine, *arguments: Any) -> Future[Generation]:
        future = submit(self, *arguments)
        future.add_done_callback(lambda done: None if done.cancelled() else seen.whole.append(_call(done.result())))
        return future

    async def watched_stream(self: Engine, requests: Any) -> AsyncGenerator[Any]:
        async for which, item in stream(self, requests):
            if isinstance(item, Generation):
                seen.streamed.append(_call(item))
            yield which, item

    def watched_update(self: Learner, rows: Sequence[Row], *arguments: Any) -> dict[str, float]:
        for row in rows:
            seen.trained += _trained(row)
        return update(self, rows, *arguments)

    monkeypatch.setattr(Engine, "submit", watched_submit)
    monkeypatch.setattr(Engine, "stream", watched_stream)
    monkeypatch.setattr(Learner, "update", watched_update)
    return seen


def _call(generation: Generation) -> Call:
    return tuple(generation.prompt_ids.tolist()), tuple(generation.token_ids.tolist())


def _trained(row: Row) -> list[Call]:
    ids, mask = row.token_ids.tolist(), [False, *row.mask.tolist(), False]
    edges = [at for at in range(len(ids) + 1) if mask[at] != mask[at + 1]]
    return [(tuple(ids[:begin]), tuple(ids[begin:end])) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
