"""From `enqueue_rollout` to the agent's first line, on a runner that is up and idle: milliseconds.

The agent returns the time at which it began as its reward; the algorithm enqueues one rollout, waits until it has
ended, rests a moment (drawn, so that no poll is met in step) and goes on.

    python latency.py --processes 0 --count 100 --home memory
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time

from common import PROMPT, all_ended, arguments, report, trainer

import agentlightning as agl

WARM = 3
"""Rollouts before the first that counts."""


class Clock(agl.LitAgent):
    async def rollout_async(self, task, resources, rollout):
        return time.time()


def main() -> None:
    args = arguments(home="memory", processes=0, count=100)
    waits: list[float] = []

    @agl.algo
    async def algorithm(*, store: agl.LightningStore, train_dataset: agl.Dataset) -> None:
        await store.add_resources(PROMPT)
        for task in train_dataset:
            begin = time.time()
            rollout = await store.enqueue_rollout(input=task)
            await all_ended(store, [rollout.rollout_id], every=0.02)
            spans = await store.query_spans(rollout.rollout_id)
            waits.append(1000 * (agl.find_final_reward(spans) - begin))
            await asyncio.sleep(random.uniform(0.05, 0.15))

    run = trainer(algorithm, home=args.home, processes=args.processes)
    run.fit(Clock(), train_dataset=list(range(args.count + WARM)))
    steps = statistics.quantiles(waits[WARM:], n=20, method="inclusive")
    report(p50_ms=steps[9], p95_ms=steps[18])


if __name__ == "__main__":
    main()
