"""Finished rollouts made by hand, as the daemon returns them."""

import numpy as np

from agentlightning.adapter import TokenGraph
from agentlightning.types import Attempt, AttemptedRollout, Episode, TokenCall, Turn
from agentlightning.verl.sample import Sample


def call(prompt, response, logprobs=True, finish_reason="stop"):
    values = np.full(len(response), -1.0, np.float32) if logprobs else None
    return TokenCall("m", np.array(prompt, np.int32), np.array(response, np.int32), values, finish_reason)


def sample(
    task,
    number,
    calls,
    reward,
    *,
    status="succeeded",
    error=None,
    missing=0,
    backend_failures=0,
    step=1,
    draw=0,
    greedy=False,
    **rewards,
):
    """A rollout of these calls; `rewards` are the dimensions of its reward."""
    trajectories, calls = TokenGraph(calls).assemble()
    rollout_id = f"ro-{step}-{task}-{number}"
    attempt = Attempt(rollout_id=rollout_id, attempt_id="a", sequence_id=1, start_time=0.0, status=status)
    rollout = AttemptedRollout(
        rollout_id=rollout_id,
        input=task,
        start_time=0.0,
        status="succeeded" if status == "succeeded" else "failed",
        attempt=attempt,
        mode="train",
        metadata={"step": step, "task": task, "sample": number},
    )
    turns = [Turn(c, None) for c in calls]
    episode = Episode(rollout_id, turns, trajectories, reward, [], missing, backend_failures, rewards=rewards)
    return Sample(task, number, rollout, {"main_llm": episode}, error, draw=draw, greedy=greedy)


def one_turn(task, number, reward, length=2, **changes):
    return sample(task, number, [call([1, 2], [3] * length)], reward, **changes)
