"""The algorithm: searches for the instruction under which the program files most mails rightly.

    python examples/separate/algorithm.py http://127.0.0.1:4747

It only talks to the store. Runners that fetch the rollouts from there may start before it, after it, and anywhere.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import agentlightning as agl

MAILS = [
    {"mail": "Your invoice for May is attached", "folder": "money"},
    {"mail": "The payment did not go through", "folder": "money"},
    {"mail": "Receipt: two tickets to Oslo", "folder": "money"},
    {"mail": "Your flight leaves at nine", "folder": "travel"},
    {"mail": "The hotel confirms your room", "folder": "travel"},
    {"mail": "The train to Basel is late", "folder": "travel"},
    {"mail": "You have won a million", "folder": "trash"},
    {"mail": "Cheap watches, today only", "folder": "trash"},
    {"mail": "Lose weight while you sleep", "folder": "trash"},
    {"mail": "Lunch on Friday?", "folder": "inbox"},
    {"mail": "Can you look at my draft?", "folder": "inbox"},
    {"mail": "Happy birthday to you", "folder": "inbox"},
]
BEGIN = "You file mails."
CANDIDATES = 4
ROUNDS = 20
RETRY = agl.RolloutConfig(timeout_seconds=60, max_attempts=3, retry_condition=["unresponsive", "timeout"])


async def evaluate(store: agl.LightningStore, instructions: Sequence[str]) -> list[list[float]]:
    """The reward of each mail under each instruction: all of them are queued at once."""
    requests: list[agl.EnqueueRolloutRequest] = []
    for instruction in instructions:
        update = await store.add_resources({"instruction": agl.PromptTemplate(template=instruction)})
        requests += [
            agl.EnqueueRolloutRequest(input=mail, mode="train", resources_id=update.resources_id, config=RETRY)
            for mail in MAILS
        ]
    queued = await store.enqueue_many_rollouts(requests)
    done = await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in queued])
    spans = await store.query_many_spans([(rollout.rollout_id, rollout.attempt.attempt_id) for rollout in done])
    rewards = [agl.find_final_reward(spans[rollout.rollout_id]) or 0.0 for rollout in queued]
    return [rewards[start : start + len(MAILS)] for start in range(0, len(rewards), len(MAILS))]


def variation(instruction: str, rewards: Sequence[float], chance: random.Random) -> str:
    """The instruction with one more rule, from a mail that was filed wrongly."""
    wrong = [mail for mail, reward in zip(MAILS, rewards, strict=True) if reward < 1.0]
    mail = chance.choice(wrong)
    word = chance.choice(re.findall(r"\w+", mail["mail"].lower()))
    return f"{instruction}\nIf it says {word}, file it under {mail['folder']}."


@agl.algo
async def search(store: agl.LightningStore, train_dataset: Any) -> None:
    """Keep the best of several variations, again and again."""
    chance = random.Random(0)
    best, (rewards,) = BEGIN, await evaluate(store, [BEGIN])
    print(f"start:    {sum(rewards):.0f} of {len(MAILS)} mails filed rightly", flush=True)
    for number in range(1, ROUNDS + 1):
        began = time.monotonic()
        candidates = [variation(best, rewards, chance) for _ in range(CANDIDATES)]
        results = await evaluate(store, candidates)
        winner = max(range(CANDIDATES), key=lambda index: sum(results[index]))
        if sum(results[winner]) > sum(rewards):
            best, rewards = candidates[winner], results[winner]
        seconds = time.monotonic() - began
        print(f"round {number:2d}: {sum(rewards):.0f} of {len(MAILS)}   ({seconds:.1f} s)", flush=True)
        if sum(rewards) == len(MAILS):
            break
    print(f"\nthe instruction that was found:\n{best}", flush=True)


def main(url: str) -> None:
    from agent import agent

    store = agl.LightningStoreClient(url)
    strategy = agl.ClientServerExecutionStrategy(role="algorithm")
    try:
        agl.Trainer(algorithm=search, store=store, strategy=strategy).fit(agent, MAILS)
    finally:
        asyncio.run(store.close())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give the store's address: python examples/separate/algorithm.py http://127.0.0.1:4747")
    main(sys.argv[1])
