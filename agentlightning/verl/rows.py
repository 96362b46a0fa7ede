"""From the samples of a step to mini-batches of rows: groups, credit, advantages, weights.

Pure functions over plain data. A group (all rollouts of one task) is whole or dropped whole; a rollout weighs the
same however many rows it became.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agentlightning.credit import CreditRule, is_relative
from agentlightning.learner.advantages import compute_advantages
from agentlightning.learner.batch import Row
from agentlightning.learner.losses import token_weights, vanishes_without_advantage
from agentlightning.types import Episode, TrainingError
from agentlightning.types.tokens import Bool, Float32

from .config import VerlConfig
from .daemon import Sample
from .tasks import stable_seed


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A rollout with its reward and what each of its turns earned."""

    sample: Sample
    reward: float
    advantages: list[float | None]
    """One number a turn; `None`: the turn is not trained."""

    @property
    def trained_tokens(self) -> int:
        """Tokens of the turns that are trained, as far as they are in a trajectory."""
        return sum(
            len(call.response_ids)
            for trajectory in self.sample.episode.trajectories
            for turn, call in trajectory.calls.items()
            if self.advantages[turn] is not None
        )


def whole_groups(samples: Sequence[Sample]) -> tuple[list[list[Sample]], int]:
    """Samples by task, in order, without groups that hold a torn rollout; and how many groups were dropped."""
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.task, []).append(sample)
    whole = [group for group in groups.values() if not any(sample.torn for sample in group)]
    return whole, len(groups) - len(whole)


def score(groups: Sequence[Sequence[Sample]], config: VerlConfig, credit: CreditRule) -> list[list[Scored]]:
    """Advantages of each turn.

    The credit rule says what each turn of a rollout earned. A rollout's score is the mean over its turns (under the
    default rule its final reward); the estimator makes advantages of these scores, one a rollout, so that a rollout
    of ten turns does not count ten times in its group. A turn that earned more or less than its rollout's score is
    moved by the difference, in units of the group's spread. The numbers of a rule that is `relative` are advantages
    already and stay as they are.

    Raises:
        TrainingError: the rule returned something else than one finite number or `None` a turn.
    """
    fill = config.agentlightning.reward_fillna_value
    samples = [sample for group in groups for sample in group]
    episodes = [[_with_reward(sample.episode, fill) for sample in group] for group in groups]
    rewards = [fill if s.episode.reward is None else s.episode.reward for s in samples]
    earned = [_earned(credit, episode, group) for group in episodes for episode in group]
    if is_relative(credit):
        return _by_task(map(Scored, samples, rewards, earned))
    # A rollout whose turns all earned `None` is not trained; a label of its own keeps it out of its group's statistics.
    scores = np.array([_mean([v for v in turns if v is not None]) for turns in earned])
    labels = [
        (s.task, None if any(v is not None for v in turns) else number)
        for number, (s, turns) in enumerate(zip(samples, earned, strict=True))
    ]
    advantages, _ = compute_advantages(
        config.algorithm.adv_estimator,
        token_level_rewards=torch.from_numpy(scores)[:, None],
        response_mask=torch.ones(len(samples), 1, dtype=torch.float64),
        index=labels,
        config=config.algorithm.model_dump(),
    )
    spread = _spread(scores, labels) if config.algorithm.norm_adv_by_std_in_grpo else np.ones(len(samples))
    return _by_task(
        Scored(
            sample,
            reward,
            [None if v is None else float(advantage + (v - own) / unit) for v in turns],
        )
        for sample, reward, turns, own, advantage, unit in zip(
            samples, rewards, earned, scores, advantages[:, 0].tolist(), spread, strict=True
        )
    )


def _by_task(scored: Iterable[Scored]) -> list[list[Scored]]:
    by_task: dict[int, list[Scored]] = {}
    for item in scored:
        by_task.setdefault(item.sample.task, []).append(item)
    return list(by_task.values())


def _with_reward(episode: Episode, fill: float) -> Episode:
    """The episode with `fill` where the agent gave no reward: as the final one, which is also the last turn's."""
    if episode.reward is not None:
        return episode
    turns = [*episode.turns[:-1], *(dataclasses.replace(turn, reward=fill) for turn in episode.turns[-1:])]
    return dataclasses.replace(episode, reward=fill, turns=turns)


def _earned(credit: CreditRule, episode: Episode, group: Sequence[Episode]) -> list[float | None]:
    earned: list[Any] = list(credit(episode, group))
    fits = len(earned) == len(episode.turns)
    if not fits or not all(v is None or (isinstance(v, (int, float, np.number)) and np.isfinite(v)) for v in earned):
        raise TrainingError(
            f"the credit rule returned {earned!r:.200} for rollout {episode.rollout_id} of {len(episode.turns)} turns; "
            "it must return one finite number or `None` for each turn"
        )
    return [None if v is None else float(v) for v in earned]


def _mean(values: list[float]) -> float:
    """The mean; of equal values exactly that value, which a sum and a division can miss by an ulp."""
    if not values:
        return 0.0
    return values[0] if all(value == values[0] for value in values) else float(np.mean(values))


def _spread(scores: np.ndarray, labels: Sequence[Hashable]) -> np.ndarray:
    """(B,) the group's sample standard deviation, 1 where it is 0 or the group is of one."""
    result = np.ones(len(labels))
    for label in set(labels):
        members = [i for i, other in enumerate(labels) if other == label]
        if len(members) > 1 and (deviation := float(np.std(scores[members], ddof=1))) > 0:
            result[members] = deviation
    return result


def mini_batches(groups: Sequence[Sequence[Scored]], config: VerlConfig, step: int) -> list[list[Row]]:
    """Rows of each mini-batch of `ppo_mini_batch_size` groups, ready for `Learner.update`.

    Weights are computed over all rollouts of the mini-batch. Rows whose advantages are all zero are then left out
    where they have no gradient (no entropy bonus, a loss proportional to the advantage): they only cost time.
    """
    actor = config.actor_rollout_ref.actor
    size = min(actor.ppo_mini_batch_size, max(len(groups), 1))
    if actor.shuffle:
        order = np.random.default_rng(stable_seed(actor.data_loader_seed, "mini-batches", step)).permutation(
            len(groups)
        )
        groups = [groups[i] for i in order]
    keep_silent = actor.entropy_coeff != 0.0 or not vanishes_without_advantage(actor.policy_loss.loss_mode)
    batches: list[list[Row]] = []
    for start in range(0, len(groups), size):
        rollouts = [item for group in groups[start : start + size] for item in group]
        weights = token_weights(
            actor.loss_agg_mode,
            [item.trained_tokens for item in rollouts],
            loss_scale_factor=actor.loss_scale_factor,
        )
        rows = [row for item, w in zip(rollouts, weights, strict=True) for row in _rows(item, float(w), keep_silent)]
        if rows:
            batches.append(rows)
    return batches


def _rows(item: Scored, weight: float, keep_silent: bool) -> list[Row]:
    # `turns` is -1 where nothing was sampled, which picks the element appended here.
    of_turn = np.array([0.0 if a is None else a for a in item.advantages] + [0.0], np.float32)
    trained = np.array([a is not None for a in item.advantages] + [False])
    rows: list[Row] = []
    for trajectory in item.sample.episode.trajectories:
        turns, logprobs = trajectory.turns, trajectory.logprobs
        mask: Bool = (turns >= 0) & trained[turns]
        advantages: Float32 = of_turn[turns]
        if not mask.any() or not (keep_silent or advantages[mask].any()):
            continue
        if np.isnan(logprobs[mask]).any() and not item.sample.episode.retokenized:
            raise TrainingError(
                f"rollout {item.sample.rollout.rollout_id} has tokens without log-probs: what sampled them "
                "returns none, so there is no policy ratio; serve the model with the native engine"
            )
        end = int(np.flatnonzero(mask)[-1]) + 1  # nothing after the last trained token can reach the loss
        rows.append(
            Row(
                token_ids=trajectory.token_ids[:end],
                mask=mask[:end],
                weights=np.full(end, weight, np.float32),
                old_logprobs=logprobs[:end],
                advantages=advantages[:end],
            )
        )
    return rows
