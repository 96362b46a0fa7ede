"""How noisy the policy gradient is under different baselines, from the very same rollouts of fixed tasks.

`measure` samples independent batches at the warm start, without learning, and takes the gradient of each batch under
each estimator. `noise` is the trace of the gradients' covariance over the square of their mean's norm: free of the
estimator's scale, so that a whitened advantage compares with a plain one. Called by `one`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import agentlightning as agl
from agentlightning.learner.advantages import compute_advantages
from agentlightning.learner.batch import tokens_of
from agentlightning.learner.forward import cpu_threads, micro_batches
from agentlightning.learner.gradients import PolicyReader, accumulate
from agentlightning.learner.objectives import Policy
from agentlightning.verl import AgentLightningTrainer
from agentlightning.verl.collect import Collected
from agentlightning.verl.estimate import token_rewards
from agentlightning.verl.experience import Experience
from agentlightning.verl.policy import PolicyRun
from agentlightning.verl.rows import Scored, mini_batches
from examples.calc.agent import calc_agent

from . import matrix

TASKS, BATCHES = 16, 40
TITLES = {
    "reinforce": "REINFORCE, rewards 0 and 1",
    "reinforce_less_one": "REINFORCE, rewards -1 and 0",
    "rloo": "RLOO",
    "remax": "ReMax",
    "reinforce_plus_plus": "REINFORCE++",
    "reinforce_plus_plus_baseline": "REINFORCE++-baseline",
    "grpo": "GRPO",
}
"""Estimators; `reinforce` is the bare score, without any baseline, so that it matters where a reward's zero is."""


def batch_advantages(name: str, rewards_RT: Tensor, mask_RT: Tensor, index: list[Any], baselines_R: Tensor) -> Tensor:
    """(R, T) advantages of a batch of rollouts.

    Args:
        name: A key of `TITLES`.
        rewards_RT: Each rollout's score on its last token.
        mask_RT: Its tokens.
        index: Its task.
        baselines_R: The reward of the task's greedy rollout.
    """
    if name.startswith("reinforce") and "plus" not in name:
        return (rewards_RT.sum(-1, keepdim=True) - float(name == "reinforce_less_one")) * mask_RT
    more = {"reward_baselines": baselines_R} if name == "remax" else {}
    return compute_advantages(name, token_level_rewards=rewards_RT, response_mask=mask_RT, index=index, **more)[0]


@dataclass(frozen=True, slots=True)
class Noise:
    """How much gradients vary, and what is left in their mean."""

    value: float
    """tr(Cov) / |mean|^2 of single gradients."""
    error: float
    """Its jackknife standard error."""
    trace: float
    """tr(Cov)."""
    signal: float
    """|mean|^2. Estimators without bias differ in the trace alone."""


def noise(gradients_KP: NDArray[np.floating[Any]]) -> Noise:
    """The noise of K independent gradients of P numbers each.

    The squared norm of the sample mean is too large by tr(Cov) / K in the mean; that is taken off.

    Raises:
        ValueError: there are fewer than three.
    """
    if len(gradients_KP) < 3:
        raise ValueError(f"{len(gradients_KP)} gradients have no jackknife; take at least 3")
    exact_KP = np.asarray(gradients_KP, np.float64)
    products_KK = exact_KP @ exact_KP.T
    count = len(products_KK)
    parts = [_parts(np.delete(np.delete(products_KK, k, 0), k, 1)) for k in range(count)]
    left_out = np.array([trace / signal for trace, signal in parts])
    spread = float(np.sum((left_out - left_out.mean()) ** 2))
    trace, signal = _parts(products_KK)
    return Noise(trace / signal, (spread * (count - 1) / count) ** 0.5, trace, signal)


def _parts(products_KK: NDArray[np.float64]) -> tuple[float, float]:
    """tr(Cov) and |mean|^2 from the gradients' scalar products: all that they depend on."""
    count = len(products_KK)
    squares, norm_of_mean = np.trace(products_KK) / count, products_KK.sum() / count**2
    trace = (squares - norm_of_mean) * count / (count - 1)
    return float(trace), float(norm_of_mean - trace / count)


def gradient(model: Any, experience: Experience, advantages_RT: Tensor, *, token_budget: int = 8192) -> Tensor:
    """(P,) the policy gradient of all rollouts as one mini-batch, under the weights that sampled them."""
    experience = experience.with_columns(
        old_logprobs=[row.columns["rollout_logprobs"] for row in experience.rows],
        advantages=experience.columns_of(advantages_RT),
    )
    (rows,) = mini_batches(experience, size=len(experience.rollouts), loss_agg_mode="token-mean")
    device = next(model.parameters()).device
    model.zero_grad(set_to_none=True)
    batches = list(micro_batches(rows, token_budget, device))
    accumulate(PolicyReader(model), tokens_of(rows, device), batches, Policy(needs_entropy=False))
    parts = [p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts)


class Probe(AgentLightningTrainer):
    """The loop, which takes gradients and leaves the weights as they are."""

    gradients: dict[str, list[NDArray[np.float32]]]
    """By estimator, one of each batch; set by `measure`."""

    def _learn(self, collected: Collected, step: int) -> dict[str, float]:
        for policy in self.policies.values():
            policy.learn = partial(self._take, policy)
        return super()._learn(collected, step)

    def _take(
        self,
        policy: PolicyRun,
        groups: Sequence[Sequence[Scored]],
        *_: Any,
        baselines: Mapping[tuple[int, int], float],
        **__: Any,
    ) -> dict[str, float]:
        """In place of `PolicyRun.learn`."""
        experience = Experience.of(groups)
        mask, rewards = experience.mask_RT, token_rewards(experience, "grpo")
        greedy = torch.tensor([baselines[item.sample.group] for item in experience.rollouts])
        with cpu_threads(matrix.THREADS):
            for estimator in TITLES:
                worth = batch_advantages(estimator, rewards, mask, experience.labels, greedy)
                self.gradients[estimator].append(gradient(policy.learner.model, experience, worth * mask).numpy())
        return {}


def measure(
    model: Path, problems: list[Any], trainer: Callable[[agl.VERL], agl.Trainer], *, batches: int = BATCHES
) -> dict[str, Any]:
    """The noise of each estimator at `model`, over `batches` independent batches of rollouts of the same tasks.

    Args:
        model: The policy.
        problems: Its tasks; the first `TASKS` are used.
        trainer: Makes the trainer that runs an algorithm.
    """
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in TITLES}
    probe = type("Probe", (Probe,), {"gradients": found})
    settings = {
        **matrix.COMMON,
        "actor_rollout_ref.model.path": str(model),
        "algorithm.adv_estimator": "remax",  # for its greedy rollouts
        "data.train_batch_size": TASKS,
        "trainer.total_training_steps": batches,
    }
    trainer(agl.VERL(settings, trainer_cls=probe)).fit(calc_agent, problems[:TASKS])
    noises = {name: noise(np.stack(gradients)) for name, gradients in found.items()}
    return {
        "tasks": TASKS,
        "batches": batches,
        "noise": {name: asdict(each) for name, each in noises.items()},
    }
