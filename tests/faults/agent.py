"""The agent of the fault tests. It notes down every span that the store has acknowledged, and every start and end.

Notes are lines appended to the file `FAULT_NOTES`, so they survive the process.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import agentlightning as agl


def note(*words: str) -> None:
    """Append a line; short appends of several processes don't mix."""
    descriptor = os.open(os.environ["FAULT_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, (" ".join(words) + "\n").encode())
    finally:
        os.close(descriptor)


class Noting(agl.LitAgent[Any]):
    """Writes `task["spans"]` spans, `task["seconds"]` apart, and returns the number of the attempt."""

    needs_resources = False

    async def rollout_async(self, task: Any, resources: agl.NamedResources, rollout: agl.AttemptedRollout) -> float:
        ids = (rollout.rollout_id, rollout.attempt.attempt_id)
        note("began", *ids, str(os.getpid()))
        for _ in range(task["spans"]):
            span = agl.Span.create("work", rollout_id=ids[0], attempt_id=ids[1])
            await self.runner.store.add_span(span)
            note("span", *ids, span.span_id)
            await asyncio.sleep(task["seconds"])
        note("done", *ids, f"{time.time():.3f}")
        return float(rollout.attempt.sequence_id)


noting = Noting()
