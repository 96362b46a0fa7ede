"""From the samples of a step to mini-batches of rows: groups, credit, weights.

Pure functions over plain data. A group (all rollouts of one task) is whole or dropped whole; a rollout weighs the
same however many rows it became. Advantages come in between, from `estimate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agentlightning.credit import CreditRule
from agentlightning.learner.batch import Row
from agentlightning.learner.losses import turn_weights
from agentlightning.types import Episode, TrainingError
from agentlightning.types.tokens import Float32, Int32

from .sample import Sample

if TYPE_CHECKING:
    from .experience import Experience


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A rollout as one policy sees it: its reward, and what each of the policy's turns earned."""

    sample: Sample
    episode: Episode
    reward: float
    earned: list[float | None]
    """One number a turn; `None`: the turn is not trained."""
    penalty: float = 0.0
    """What overlong shaping took from the reward."""

    @property
    def score(self) -> float | None:
        """What the rollout counts in its group: the mean over its turns (under the default rule its final reward).

        So a rollout of ten turns does not count ten times. `None`: no turn earned anything. A rollout without a turn
        of this policy counts with its reward.
        """
        if not self.earned:
            return self.reward
        known = [value for value in self.earned if value is not None]
        if not known:
            return None
        # Of equal values exactly that value, which a sum and a division can miss by an ulp.
        return known[0] if all(value == known[0] for value in known) else float(np.mean(known))


def whole_groups(samples: Sequence[Sample]) -> tuple[list[list[Sample]], int]:
    """Samples by group, in order, without groups that hold a torn rollout; and how many groups were dropped."""
    groups: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    whole = [group for group in groups.values() if not any(sample.torn for sample in group)]
    return whole, len(groups) - len(whole)


def score(
    groups: Sequence[Sequence[Sample]],
    policy: str,
    credit: CreditRule,
    *,
    fill: float = 0.0,
    shape: Callable[[Episode], float] | None = None,
) -> list[list[Scored]]:
    """What each turn of a policy earned.

    Args:
        groups: Whole groups of rollouts.
        policy: Whose turns.
        credit: The rule.
        fill: Reward of a rollout that gave none.
        shape: What is added to the final reward of an episode, such as the penalty for its length.

    Raises:
        TrainingError: the rule returned something else than one finite number or `None` a turn.
    """
    result: list[list[Scored]] = []
    for group in groups:
        penalties = [0.0 if shape is None else shape(sample.episodes[policy]) for sample in group]
        episodes = [
            _with_reward(sample.episodes[policy], fill, added) for sample, added in zip(group, penalties, strict=True)
        ]
        result.append(
            [
                Scored(sample, episode, float(episode.reward or 0.0), _earned(credit, episode, episodes), added)
                for sample, episode, added in zip(group, episodes, penalties, strict=True)
            ]
        )
    return result


def _with_reward(episode: Episode, fill: float, added: float) -> Episode:
    """The episode with `fill` where the agent gave no reward, and `added` to it: also as the last turn's."""
    if episode.reward is not None and added == 0.0:
        return episode
    reward = (fill if episode.reward is None else episode.reward) + added
    turns = list(episode.turns)
    if turns:
        last = turns[-1]
        own = reward if episode.reward is None else None if last.reward is None else last.reward + added
        turns[-1] = dataclasses.replace(last, reward=own)
    return dataclasses.replace(episode, reward=reward, turns=turns)


def _earned(credit: CreditRule, episode: Episode, group: Sequence[Episode]) -> list[float | None]:
    earned: list[Any] = list(credit(episode, group))
    fits = len(earned) == len(episode.turns)
    if not fits or not all(v is None or (isinstance(v, (int, float, np.number)) and np.isfinite(v)) for v in earned):
        raise TrainingError(
            f"the credit rule returned {earned!r:.200} for rollout {episode.rollout_id} of {len(episode.turns)} turns; "
            "it must return one finite number or `None` for each turn"
        )
    return [None if v is None else float(v) for v in earned]


def mini_batches(
    experience: Experience,
    *,
    size: int,
    loss_agg_mode: str,
    loss_scale_factor: float | None = None,
    shuffle_seed: int | None = None,
    keep_silent: bool = True,
    kept: Sequence[np.ndarray] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> list[list[Row]]:
    """Rows of each mini-batch of `size` groups, with their `weights`, ready for `Learner.update`.

    Weights are computed over all rollouts of the mini-batch, before anything is left out.

    Args:
        experience: Rows with their columns.
        size: Groups of a mini-batch.
        loss_agg_mode, loss_scale_factor: How token losses become one number, see `losses.turn_weights`.
        shuffle_seed: Seed of the order of groups; `None`: as they come.
        keep_silent: Whether rows whose advantages are all zero are kept. Where they have no gradient they only cost
            time.
        kept: (N,) for each row: tokens that rollout correction kept; the others weigh nothing.
        groups: Numbers of the rollouts that stay together; default those of each task.
    """
    order = list(_by_task(experience) if groups is None else groups)
    if shuffle_seed is not None:
        order = [order[i] for i in np.random.default_rng(shuffle_seed).permutation(len(order))]
    rows_of = experience.rows_of()
    counts = [_tokens_per_turn([experience.turns[i] for i in indices]) for indices in rows_of]
    batches: list[list[Row]] = []
    for start in range(0, len(order), size):
        rollouts = [number for group in order[start : start + size] for number in group]
        weights = turn_weights(
            loss_agg_mode, [counts[number] for number in rollouts], loss_scale_factor=loss_scale_factor
        )
        rows = [
            _weighed(experience.rows[i], sequence, of_turn[experience.turns[i]], None if kept is None else kept[i])
            for sequence, (number, of_turn) in enumerate(zip(rollouts, weights, strict=True))
            for i in rows_of[number]
        ]
        if moving := [row for row in rows if row.trained and (keep_silent or np.any(row.columns["advantages"]))]:
            batches.append(moving)
    return batches


def _by_task(experience: Experience) -> Iterable[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for number, item in enumerate(experience.rollouts):
        groups.setdefault(item.sample.group, []).append(number)
    return groups.values()


def _tokens_per_turn(turns: Sequence[Int32]) -> list[int]:
    """Trained tokens of each turn of a rollout, from the turns of the tokens in its rows."""
    return np.bincount(np.concatenate(turns)).tolist() if turns else []


def _weighed(row: Row, sequence: int, weights: Float32, kept: np.ndarray | None) -> Row:
    """The row with its tokens' weights, and without those that were not kept."""
    if kept is None or kept.all():
        return Row(row.token_ids, row.mask, {**row.columns, "weights": weights}, sequence)
    mask = row.mask.copy()
    mask[mask] = kept
    columns = {name: column[kept] for name, column in {**row.columns, "weights": weights}.items()}
    return Row(row.token_ids, mask, columns, sequence)
