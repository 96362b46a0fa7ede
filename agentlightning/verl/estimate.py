"""From what turns earned to advantages of tokens: rewards on tokens, KL in the reward, the estimator, credit within it.

Called by `policy` for the rollouts of one step; the estimators are in `learner.advantages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from agentlightning.credit import CreditRule, is_relative
from agentlightning.learner.advantages import compute_advantages, requirements
from agentlightning.types import TrainingError

from .experience import Experience


def token_rewards(experience: Experience, estimator: str) -> torch.Tensor:
    """(R, T) rewards on tokens.

    A rollout's score stands on its last token. Estimators of returns (`gae`, `reinforce_plus_plus`, ...) see instead
    what each turn earned, on the turn's last token, where the turns of the rollout earned different things.
    """
    mask = experience.mask_RT
    rewards = torch.zeros_like(mask)
    if not mask.numel():
        return rewards
    last = (mask.sum(-1).long() - 1).clamp(min=0)
    dense = not requirements(estimator).outcome
    ends = experience.turn_ends() if dense else {}
    for number, item in enumerate(experience.rollouts):
        if dense and _differ(item.earned):
            place: int | None = None
            for turn, value in enumerate(item.earned):
                # What a turn without a token earned goes to the tokens before it: it is a return of theirs.
                place = ends.get((number, turn), place)
                if value is not None and place is not None:
                    rewards[number, place] += value
        elif item.score is not None:
            rewards[number, last[number]] = item.score
    return rewards


def advantages(
    experience: Experience,
    estimator: str,
    rewards_RT: torch.Tensor,
    credit: CreditRule,
    settings: Mapping[str, Any],
    **known: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, T) advantages and returns.

    An outcome estimator gives a rollout one number. A turn that earned more or less than its rollout's score is moved
    by the difference, in units of the group's spread where the estimator divides by it. The numbers of a rule that is
    `relative` are advantages already and stay as they are. A single trained token has no deviation: where advantages
    are divided by that, it has advantage 0.

    Args:
        experience: The rollouts.
        estimator: A name in `learner.advantages`.
        rewards_RT: Rewards on tokens, KL penalties taken off.
        credit: The rule that said what turns earned.
        settings: Leaf names of `algorithm.*`.
        known: Further inputs of the estimator, such as `values`.
    """
    mask = experience.mask_RT
    if is_relative(credit):
        direct = experience.matrix_RT(experience.of_turns([item.earned for item in experience.rollouts]))
        return direct, direct
    needs = requirements(estimator)
    if mask.sum() < 1 + needs.whitens:
        return torch.zeros_like(mask), rewards_RT * mask
    result, returns = compute_advantages(
        estimator,
        token_level_rewards=rewards_RT,
        response_mask=mask,
        index=experience.labels,
        config=settings,
        **known,
    )
    result = result * mask
    if needs.outcome and any(_differ(item.earned) for item in experience.rollouts):
        result = result + experience.matrix_RT(experience.of_turns(_moves(experience, estimator, settings)))
    return result, returns * mask


def reward_components(experience: Experience, names: list[str]) -> dict[str, torch.Tensor]:
    """(R,) each: the reward dimensions that GDPO compares one by one.

    Raises:
        TrainingError: a rollout's reward lacks one.
    """
    for name in names:
        missing = [
            item for item in experience.rollouts if name not in item.episode.rewards and item.sample.error is None
        ]
        if missing:
            raise TrainingError(
                f"`algorithm.gdpo_reward_keys` has {name!r}, and the reward of rollout "
                f"{missing[0].sample.rollout.rollout_id} has only {sorted(missing[0].episode.rewards)}; "
                f'emit all of them: `agl.emit_reward({{"{name}": ...}}, primary_key=...)`'
            )
    return {
        # A rollout that failed has none of them and counts with its reward.
        name: torch.tensor([item.episode.rewards.get(name, item.reward) for item in experience.rollouts])
        for name in names
    }


def _differ(earned: list[float | None]) -> bool:
    known = {value for value in earned if value is not None}
    return len(known) > 1


def _moves(experience: Experience, estimator: str, settings: Mapping[str, Any]) -> list[list[float | None]]:
    """By how much each turn's advantage departs from its rollout's."""
    units = np.ones(len(experience.rollouts))
    if estimator.startswith("grpo") and settings.get("norm_adv_by_std_in_grpo", True):
        units = _spread(experience)
    return [
        [None if value is None else (value - (item.score or 0.0)) / unit for value in item.earned]
        for item, unit in zip(experience.rollouts, units, strict=True)
    ]


def _spread(experience: Experience) -> np.ndarray:
    """(R,) the group's sample standard deviation, 1 where it is 0 or the group is of one."""
    result = np.ones(len(experience.rollouts))
    by_label: dict[Any, list[int]] = {}
    for number, label in enumerate(experience.labels):
        by_label.setdefault(label, []).append(number)
    for members in by_label.values():
        scores = [experience.rollouts[i].score or 0.0 for i in members]
        if len(members) > 1 and (deviation := float(np.std(scores, ddof=1))) > 0:
            result[members] = deviation
    return result
