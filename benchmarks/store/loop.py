"""The whole loop: `Trainer.fit` with an agent that does nothing but sleep, from a full queue.

Throughput is counted from the first attempt's start to the last rollout's end, so neither start-up nor the algorithm's
waiting counts; `first_s` is from `fit` to the start of the first attempt.

    python loop.py --processes 0 --tasks 1000 --home memory [--sleep 0.05 --concurrency 64]
"""

from __future__ import annotations

import asyncio
import time

from common import PROMPT, all_ended, arguments, report, trainer

import agentlightning as agl


class Plain(agl.LitAgent):
    def rollout(self, task, resources, rollout):
        return 1.0


class PlainAsync(agl.LitAgent):
    async def rollout_async(self, task, resources, rollout):
        return 1.0


class Sleeper(agl.LitAgent):
    async def rollout_async(self, task, resources, rollout):
        await asyncio.sleep(task)
        return 1.0


def main() -> None:
    args = arguments(home="memory", processes=0, tasks=1000, sleep=0.0, concurrency=1, tracer="otel", agent="sync")
    figures = {}

    @agl.algo
    async def algorithm(*, store: agl.LightningStore, train_dataset: agl.Dataset) -> None:
        await store.add_resources(PROMPT)
        queued = await store.enqueue_many_rollouts([agl.EnqueueRolloutRequest(input=task) for task in train_dataset])
        ids = [rollout.rollout_id for rollout in queued]
        await all_ended(store, ids)
        done = await store.query_rollouts(rollout_id_in=ids)  # with their attempts
        first, last = min(r.attempt.start_time for r in done), max(r.end_time for r in done)
        figures.update(rollouts_per_s=len(done) / (last - first), first_s=first - begin)

    agent = Sleeper() if args.sleep else Plain() if args.agent == "sync" else PlainAsync()
    chosen = {name: getattr(args, name) for name in ("home", "processes", "concurrency", "tracer")}
    run = trainer(algorithm, **chosen)
    begin = time.time()
    run.fit(agent, train_dataset=[args.sleep] * args.tasks)
    report(**figures, fit_s=time.time() - begin)


if __name__ == "__main__":
    main()
