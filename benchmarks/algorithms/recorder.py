"""The loop, watched: what each step sampled, and how much memory its tensors take. Called by `one` through `VERL`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from agentlightning.verl import AgentLightningTrainer
from agentlightning.verl.collect import Collected
from agentlightning.verl.policy import PolicyRun

REWARD, ROLLOUTS, HELD = "bench/reward", "bench/rollouts", "bench/held"


class Recorder(AgentLightningTrainer):
    """Adds three metrics to each step.

    `bench/reward` is the mean over all rollouts that were sampled, also those that dynamic sampling left out, so that
    it is the same quantity for every algorithm. `bench/rollouts` counts them and the greedy ones. `bench/held` is
    `held` of the policy.
    """

    def _learn(self, collected: Collected, step: int) -> dict[str, float]:
        metrics = super()._learn(collected, step)
        policy = next(iter(self.policies.values()))
        return metrics | {
            REWARD: float(np.mean([sample.reward or 0.0 for sample in collected.samples])),
            ROLLOUTS: float(len(collected.samples) + len(collected.baselines)),
            HELD: held(policy),
        }


def held(policy: PolicyRun) -> float:
    """Numbers that training keeps, in sizes of the model: weights, a gradient, the optimizer's, critic, reference."""
    steppers = [policy.learner] if policy.critic is None else [policy.learner, policy.critic]
    models: list[Any] = [stepper.model for stepper in steppers]
    if policy.reference is not None:
        models.append(policy.reference.model)
    total = _numbers(p for model in models for p in model.parameters())
    for stepper in steppers:
        total += sum(p.numel() for p in stepper.parameters.values())  # the gradient
        total += _numbers(value for state in stepper.optimizer.state.values() for value in state.values())
    return total / _numbers(policy.learner.model.parameters())


def _numbers(tensors: Iterable[Any]) -> int:
    """How many numbers these tensors hold together; what several share counts once."""
    return sum({t.data_ptr(): t.numel() for t in tensors if isinstance(t, Tensor) and t.dim() > 0}.values())
