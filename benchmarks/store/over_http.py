"""Operations through `LightningStoreClient` on a server in another process, figures in operations per second.

`--what single`: each operation by itself, one after the other. `--what bulk`: `add_many_spans`, in spans per second.
`--what queries`: filtered `query_rollouts` over 6,000 rollouts, one after the other and 16 at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from common import PROMPT, arguments, report
from serve import serving
from spans import attribute_pool, make_span

import agentlightning as agl

BULK = 100
"""Spans in one `add_many_spans`: a rollout with many calls."""
SMALL = [{f"key.{number}": f"value {number}" for number in range(8)}]
"""Attributes of a small span; the others are of 5 kB, as in upstream's benchmark."""


async def rate(call: Callable[[int], Awaitable[Any]], count: int, at_once: int = 1) -> float:
    """Calls per second, `at_once` under way, each given its number."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await call(number)

    begin = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return count / (time.perf_counter() - begin)


async def single(store: Any, count: int) -> dict[str, float]:
    pool = attribute_pool()
    await store.add_resources(PROMPT)
    started = []

    async def start(number: int) -> None:
        started.append(await store.start_rollout(input={"task": number}, worker_id="w"))

    async def add(number: int) -> None:
        rollout = started[number]
        await store.add_span(make_span(rollout.rollout_id, rollout.attempt.attempt_id, 1, pool[number % len(pool)]))

    async def beat(number: int) -> None:
        rollout = started[number]
        await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, last_heartbeat_time=time.time())

    async def end(number: int) -> None:
        rollout = started[number]
        await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")

    calls: dict[str, Callable[[int], Awaitable[Any]]] = {
        "start_rollout": start,
        "add_span": add,
        "heartbeat": beat,
        "query_spans": lambda n: store.query_spans(started[n].rollout_id),
        "update_attempt": end,
        "get_rollout_by_id": lambda n: store.get_rollout_by_id(started[n].rollout_id),
        "get_latest_resources": lambda _: store.get_latest_resources(),
        "enqueue_rollout": lambda n: store.enqueue_rollout(input={"task": n}),
        "dequeue_rollout": lambda _: store.dequeue_rollout(worker_id="w"),
        "update_worker": lambda _: store.update_worker("w", {"cpu": 1.0}),
    }
    for call in calls.values():
        await rate(call, 20)  # warm: connections, code paths
    started.clear()
    figures = {name: await rate(call, count) for name, call in calls.items()}
    figures["16 at a time"] = await rate(calls["get_rollout_by_id"], count, at_once=16)
    return figures


async def bulk(store: Any, count: int) -> dict[str, float]:
    figures = {}
    for name, pool in {"spans": attribute_pool(), "small spans": SMALL}.items():
        rollouts = [await store.start_rollout(input=number) for number in range(count + 1)]
        sets = [
            [make_span(r.rollout_id, r.attempt.attempt_id, n + 1, pool[n % len(pool)]) for n in range(BULK)]
            for r in rollouts
        ]
        await store.add_many_spans(sets.pop())
        figures[name] = BULK * await rate(lambda n, sets=sets: store.add_many_spans(sets[n]), count)
    return figures


async def queries(store: Any, count: int, rollouts: int = 6000) -> dict[str, float]:
    ids: list[str] = []
    for first in range(0, rollouts, 500):
        wanted = [agl.EnqueueRolloutRequest(input={"task": n}, mode="train") for n in range(first, first + 500)]
        ids += [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(wanted)]
    taken = await store.dequeue_many_rollouts(limit=60, worker_id="w")
    for rollout in taken[:30]:
        await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
    calls: dict[str, Callable[[int], Awaitable[Any]]] = {
        "by status": lambda n: store.query_rollouts(status_in=["succeeded"], limit=10),
        "by part of the id": lambda n: store.query_rollouts(rollout_id_contains=ids[n % rollouts][-6:], limit=10),
        "by 10 ids": lambda n: store.query_rollouts(rollout_id_in=[ids[(n + k * 531) % rollouts] for k in range(10)]),
        "by status, sorted": lambda n: store.query_rollouts(
            status_in=["preparing", "succeeded"], sort_by="start_time", sort_order="desc", limit=10, offset=10
        ),
    }
    figures = {}
    for name, call in calls.items():
        assert len(await call(0)) >= 1, name
        figures[name] = await rate(call, count)
    figures["by status, 16 at a time"] = await rate(calls["by status"], count, at_once=16)
    return figures


async def measure(url: str, what: str, count: int) -> dict[str, float]:
    store = agl.LightningStoreClient(url)
    return await {"single": single, "bulk": bulk, "queries": queries}[what](store, count)


def main() -> None:
    args = arguments(home="memory", what="single", count=300)
    with serving(args.home) as url:
        figures = asyncio.run(measure(url, args.what, args.count))
    report(**figures)


if __name__ == "__main__":
    main()
