"""The shapes of upstream's own store benchmark: many runners, agents that sleep and emit spans, batches or a queue.

Upstream's figures were published for machines with 32 and 64 cores and one process a runner. Here a shape keeps its
number of runners (rollouts at once), turns, sleeps, batch sizes and span sizes; the runners share at most four
processes, the attributes are prepared beforehand, and the number of tasks is cut so that a shape takes about half a
minute. Sleeps are drawn by the task's number, so that `allowed` can say what they alone would allow.

    python shapes.py --shape minimal --home memory
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from dataclasses import dataclass
from typing import Any

from common import all_ended, arguments, report, trainer
from opentelemetry.trace import get_tracer
from spans import attribute_pool

import agentlightning as agl


@dataclass
class Shape:
    """One scenario: `mode` is `batch` (wait for all, then the next) or `queue` (refill below `remaining`)."""

    mode: str
    runners: int
    turns: int
    sleep: float
    batch: int
    remaining: int
    tasks: int


POLL = 0.2
"""Seconds to wait for all; then what has ended is checked. Upstream's algorithm looks every 5 s."""

SHAPES = {
    "minimal": Shape("batch", 32, 6, 0.5, 256, 0, 512),
    "medium": Shape("batch", 100, 10, 0.1, 1000, 0, 4000),
    "midhigh": Shape("batch", 300, 6, 0.1, 2048, 0, 6144),
    "large": Shape("batch", 1000, 3, 0.1, 8192, 0, 8192),
    "longqueue": Shape("queue", 256, 4, 0.1, 1024, 4096, 8192),
    "heavy": Shape("queue", 512, 20, 1.0, 1024, 256, 2048),
}


@dataclass
class Plan:
    """What one task does: its sleeps by turn (two each, and a last one) and after which turns it emits a reward."""

    sleeps: list[float]
    rewards: list[bool]


def plan(number: int, shape: Shape) -> Plan:
    draw = random.Random(number)
    turns = draw.randint(1, shape.turns)
    return Plan(
        [draw.uniform(0.0, shape.sleep) for _ in range(2 * turns + 1)], [draw.random() < 0.5 for _ in range(turns)]
    )


class SpanAgent(agl.LitAgent):
    """Emits, a turn, a span with two children that sleep and carry attributes, and rewards now and then."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.pool = attribute_pool()

    async def rollout_async(self, task, resources, rollout):
        tracer = get_tracer("benchmark")
        todo = plan(task, self.shape)
        for turn, reward in enumerate(todo.rewards):
            with tracer.start_as_current_span(f"agent{turn}"):
                for half in (0, 1):
                    with tracer.start_as_current_span(f"round{turn}_{half + 1}") as span:
                        await asyncio.sleep(todo.sleeps[2 * turn + half])
                        span.set_attributes(self.pool[(task + turn + half) % len(self.pool)])
                        if turn == half == 0:
                            span.set_attribute("task", task)
            if reward:
                agl.emit_reward(0.5)
        with tracer.start_as_current_span("final") as span:
            await asyncio.sleep(todo.sleeps[-1])
            span.set_attributes(self.pool[task % len(self.pool)])
        agl.emit_reward(1.5)


def allowed(shape: Shape) -> float:
    """Rollouts per second if nothing but the sleeps took time: `runners` servers, first come first served."""
    free = [0.0] * shape.runners
    ends: list[float] = []  # of what is queued or running
    now, last, sent = 0.0, 0.0, 0
    while sent < shape.tasks:
        count = min(shape.batch, shape.tasks - sent)
        for number in range(sent, sent + count):
            begin = max(now, heapq.heappop(free))
            end = begin + sum(plan(number, shape).sleeps)
            heapq.heappush(free, end)
            heapq.heappush(ends, end)
            last = max(last, end)
        sent += count
        keep = 0 if shape.mode == "batch" else shape.remaining - 1
        while len(ends) > keep:
            now = max(now, heapq.heappop(ends))
    return shape.tasks / last


async def check(store: Any, rollout_id: str, task: int) -> None:
    """As upstream's algorithm does: read the spans back, find the task and the final reward in them."""
    spans = await store.query_spans(rollout_id=rollout_id, attempt_id="latest")
    if agl.find_final_reward(spans) != 1.5 or not any(span.attributes.get("task") == task for span in spans):
        raise RuntimeError(f"spans of task {task} are missing")


async def enqueue(store: Any, numbers: range) -> dict[str, int]:
    await store.add_resources({"llm": agl.LLM(endpoint=f"http://localhost:{numbers[0] + 1}/v1", model="m")})
    queued = await store.enqueue_many_rollouts([agl.EnqueueRolloutRequest(input=n, mode="train") for n in numbers])
    return {rollout.rollout_id: n for rollout, n in zip(queued, numbers, strict=True)}


async def in_batches(store: Any, shape: Shape) -> None:
    for first in range(0, shape.tasks, shape.batch):
        batch = await enqueue(store, range(first, min(first + shape.batch, shape.tasks)))
        pending = set(batch)
        while pending:
            done = await store.wait_for_rollouts(rollout_ids=sorted(pending), timeout=POLL)
            for rollout in done:
                pending.discard(rollout.rollout_id)
                await check(store, rollout.rollout_id, batch[rollout.rollout_id])


async def by_queue(store: Any, shape: Shape) -> None:
    active: dict[str, int] = {}
    sent = 0
    while sent < shape.tasks or active:
        if sent < shape.tasks and len(active) < shape.remaining:
            count = min(shape.batch, shape.tasks - sent)
            active |= await enqueue(store, range(sent, sent + count))
            sent += count
            continue
        done = await store.wait_for_rollouts(rollout_ids=list(active), timeout=POLL)
        for rollout in done:
            await check(store, rollout.rollout_id, active.pop(rollout.rollout_id))


def main() -> None:
    args = arguments(shape="minimal", home="memory", processes=0, tasks=0)
    shape = SHAPES[args.shape]
    shape.tasks = args.tasks or shape.tasks
    seconds = 0.0

    @agl.algo
    async def algorithm(*, store: agl.LightningStore, train_dataset: agl.Dataset) -> None:
        nonlocal seconds
        await enqueue(store, range(shape.runners, shape.runners + 1))  # one to warm up, and so that runners are there
        await all_ended(store, [r.rollout_id for r in await store.query_rollouts()], every=0.1)
        begin = time.perf_counter()
        await {"batch": in_batches, "queue": by_queue}[shape.mode](store, shape)
        seconds = time.perf_counter() - begin

    concurrency = -(-shape.runners // max(args.processes, 1))
    run = trainer(algorithm, home=args.home, processes=args.processes, concurrency=concurrency)
    run.fit(SpanAgent(shape), train_dataset=[0])
    report(rollouts_per_s=shape.tasks / seconds, allowed_per_s=allowed(shape))


if __name__ == "__main__":
    main()
