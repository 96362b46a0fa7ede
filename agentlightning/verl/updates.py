"""The steps that a policy takes on an experience with its advantages: the objective, pairs, and what is drawn anew.

Called by `policy`; the losses are in `learner.objectives`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentlightning.learner.advantages import pf_ppo_rows
from agentlightning.learner.batch import Row
from agentlightning.learner.losses import agg_mode_of, vanishes_without_advantage
from agentlightning.learner.objectives import SPPO, Objective, OnlineDPO, Policy
from agentlightning.utils.seeds import stable_seed

from .config import VerlConfig
from .config.schema import SELF_PLAY_LOSSES, PolicyConfig
from .experience import Experience

ONLINE_DPO, SPPO_LOSS = SELF_PLAY_LOSSES


def make_objective(config: VerlConfig, own: PolicyConfig, rows: Sequence[Row], *, seed: int) -> Objective:
    """What a policy minimises on a mini-batch.

    Args:
        config: Settings of the run.
        own: Those of the policy.
        rows: The mini-batch; for `online_dpo` sequences 2i and 2i + 1 are a pair.
        seed: For losses that choose tokens at random.
    """
    settings, actor = config.algorithm, own.actor_rollout_ref.actor
    mode, temperature = config.loss_mode(own), own.actor_rollout_ref.rollout.temperature
    kl_loss_coef = actor.kl_loss_coef if actor.use_kl_loss else 0.0
    if mode == ONLINE_DPO:
        return OnlineDPO(
            pairs=np.arange(1 + max(row.sequence for row in rows)).reshape(-1, 2),
            beta=settings.dpo_beta,
            loss_type=settings.dpo_loss_type,
            label_smoothing=settings.dpo_label_smoothing,
            temperature=temperature,
        )
    if mode == SPPO_LOSS:
        return SPPO(
            eta=actor.sppo_eta,
            temperature=temperature,
            loss_agg_mode=actor.loss_agg_mode,
            loss_scale_factor=actor.loss_scale_factor,
            entropy_coeff=actor.entropy_coeff,
            kl_loss_coef=kl_loss_coef,
            kl_loss_type=actor.kl_loss_type,
        )
    return Policy(
        loss_mode=mode,
        config={**actor.model_dump(), "rollout_correction": settings.rollout_correction.model_dump(), "seed": seed},
        entropy_coeff=actor.entropy_coeff,
        kl_loss_coef=kl_loss_coef,
        kl_loss_type=actor.kl_loss_type,
        temperature=temperature,
    )


def aggregation(config: VerlConfig, own: PolicyConfig) -> str:
    """`actor.loss_agg_mode`, unless the loss has one of its own."""
    mode = own.actor_rollout_ref.actor.loss_agg_mode
    return mode if config.is_self_play(own) else agg_mode_of(config.loss_mode(own), mode)


def moves_silent_rows(config: VerlConfig, own: PolicyConfig) -> bool:
    """Whether rows without any advantage have a gradient nevertheless."""
    actor = own.actor_rollout_ref.actor
    if config.is_self_play(own) or actor.entropy_coeff != 0 or actor.use_kl_loss:
        return True
    return not vanishes_without_advantage(config.loss_mode(own))


def chosen(
    config: VerlConfig, own: PolicyConfig, experience: Experience, step: int, kept: Sequence[np.ndarray] | None
) -> tuple[Experience, Sequence[np.ndarray] | None, list[list[int]] | None]:
    """The rollouts to step on: all of them, SPIN's pairs, or those that preference-feedback PPO draws.

    Args:
        config: Settings of the run.
        own: Those of the policy.
        experience: The rollouts of the step.
        step: Its number.
        kept: (N,) for each row: tokens that rollout correction kept.

    Returns:
        Them, `kept` for their rows, and the numbers of those that stay in one mini-batch; `None`: each task's.
    """
    if config.loss_mode(own) == ONLINE_DPO:
        numbers, size = [number for pair in pairs(experience, step) for number in pair], 2
    elif config.algorithm.use_pf_ppo and not config.is_self_play(own):
        numbers = resample(config, experience, seed=stable_seed(config.agentlightning.seed, "pf_ppo", step))
        size = config.actor_rollout_ref.rollout.n
    else:
        return experience, kept, None
    experience, origin = experience.select(numbers)
    groups = [[*range(start, min(start + size, len(numbers)))] for start in range(0, len(numbers), size)]
    return experience, None if kept is None else [kept[index] for index in origin], groups


def pairs(experience: Experience, step: int) -> list[tuple[int, int]]:
    """SPIN's pairs, by number: the chosen and the rejected rollout of each task.

    The best answer of this step is chosen. The worst of the same task is rejected: of those of an earlier step where
    the experience has any (`agentlightning.spin_pairs`), else of this step's. There is no pair where the best is no
    better than the worst.
    """
    by_group: dict[tuple[int, int], list[int]] = {}
    earlier: dict[int, list[int]] = {}
    for number, length in enumerate(experience.lengths.tolist()):
        sample = experience.rollouts[number].sample
        if not length:
            continue
        if sample.step == step:
            by_group.setdefault(sample.group, []).append(number)
        else:
            earlier.setdefault(sample.task, []).append(number)

    def reward(number: int) -> float:
        return experience.rollouts[number].reward

    found = [
        (max(members, key=reward), min(earlier.get(task, members), key=reward))
        for (task, _), members in by_group.items()
    ]
    return [(chosen, rejected) for chosen, rejected in found if reward(chosen) > reward(rejected)]


def resample(config: VerlConfig, experience: Experience, *, seed: int) -> list[int]:
    """Preference-feedback PPO: numbers of rollouts, drawn with replacement by how good or bad they were."""
    settings = config.algorithm.pf_ppo
    return pf_ppo_rows(
        np.array([item.reward for item in experience.rollouts]),
        np.random.default_rng(seed),
        reweight_method=settings.reweight_method,
        weight_pow=settings.weight_pow,
    ).tolist()
