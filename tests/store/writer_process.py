"""Writes to a store until it is killed, and prints what the store has answered. Started by `test_sql`."""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from agentlightning.store import SqlLightningStore
from agentlightning.types import EnqueueRolloutRequest, Span, TokenCall


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def enqueue(store: SqlLightningStore) -> None:
    while True:
        rollouts = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input={"n": n}) for n in range(5)])
        for rollout in rollouts:
            say("enqueued", rollout.rollout_id)
        await asyncio.sleep(0.005)


async def work(store: SqlLightningStore, worker_id: str) -> None:
    while True:
        rollout = await store.dequeue_rollout(worker_id, timeout=10)
        assert rollout is not None
        say("taken", rollout.rollout_id, rollout.attempt.attempt_id)
        span = Span.create("call", rollout_id=rollout.rollout_id, attempt_id=rollout.attempt.attempt_id)
        ids = np.arange(500, dtype=np.int32)
        span.token_call = TokenCall("tiny", ids, ids, None, "stop")
        await store.add_span(span)
        say("span", rollout.rollout_id, span.span_id)
        await store.update_attempt(rollout.rollout_id, "latest", status="succeeded")
        say("succeeded", rollout.rollout_id)


async def main(path: str) -> None:
    store = SqlLightningStore(path)
    await asyncio.gather(enqueue(store), *(work(store, f"w-{index}") for index in range(4)))


asyncio.run(main(sys.argv[1]))
