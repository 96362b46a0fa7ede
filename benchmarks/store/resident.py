"""Growth of resident memory over `--rollouts` finished rollouts, after `--before` others have filled what is kept.

    python resident.py --home memory --before 20000 --rollouts 100000

Each rollout is enqueued, dequeued, gets two spans and succeeds, straight in the store: what is measured is the store.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import psutil
from common import PROMPT, arguments, open_store, report
from spans import make_span

import agentlightning as agl

AT_ONCE = 100
ATTRIBUTES = {f"key{number}": "value " * 10 for number in range(8)}


async def finish(store: Any, count: int) -> None:
    for _ in range(count // AT_ONCE):
        await store.enqueue_many_rollouts([agl.EnqueueRolloutRequest(input={"task": n}) for n in range(AT_ONCE)])
        taken = await store.dequeue_many_rollouts(limit=AT_ONCE, worker_id="w")
        ids = [(rollout.rollout_id, rollout.attempt.attempt_id) for rollout in taken]
        await store.add_many_spans([make_span(*both, n, ATTRIBUTES) for both in ids for n in (1, 2)])
        for both in ids:
            await store.update_attempt(*both, status="succeeded")


def resident() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


async def measure(home: str, before: int, rollouts: int) -> dict[str, float]:
    store = open_store(home, **({"retention": RETENTION} if home == "sqlite" else {}))
    await store.add_resources(PROMPT)
    await finish(store, before)
    at, begin = resident(), time.perf_counter()
    await finish(store, rollouts)
    seconds = time.perf_counter() - begin
    grown = resident() - at
    return {"grown_mib": grown, "per_100k_mib": grown * 100_000 / rollouts, "rollouts_per_s": rollouts / seconds}


RETENTION = 10_000
"""What the memory home keeps by default; the SQLite home keeps all unless told so."""


def main() -> None:
    args = arguments(home="memory", before=20_000, rollouts=100_000)
    report(**asyncio.run(measure(args.home, args.before, args.rollouts)))


if __name__ == "__main__":
    main()
