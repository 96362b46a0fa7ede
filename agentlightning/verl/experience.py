"""What a policy did in the rollouts of a step: as rows for its learner, and as (R, T) matrices for the estimators.

A rollout's trained tokens may lie in several rows (branches, broken prefixes). `Experience` keeps both views and the
way between them: columns of the rows, and one padded line for each rollout with its tokens in the order of its turns,
so that no number depends on how many rows a rollout became. Pure functions over plain data; called by `policy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from agentlightning.learner.batch import Row
from agentlightning.types import TrainingError
from agentlightning.types.tokens import Bool, Float32, Int32

from .rows import Scored


@dataclass(frozen=True, slots=True)
class Experience:
    """R rollouts of one policy. `row.sequence` is the index of the row's rollout in `rollouts`."""

    rollouts: list[Scored]
    rows: list[Row]
    turns: list[Int32]
    """(N,) for each row: the turn that sampled each trained token."""

    @classmethod
    def of(cls, groups: Sequence[Sequence[Scored]]) -> Experience:
        """The rows of all rollouts, with the log-probs that were recorded as `rollout_logprobs` (NaN where none were).

        Raises:
            TrainingError: tokens without log-probs, in an episode that was not retokenised.
        """
        rollouts = [item for group in groups for item in group]
        found = [pair for number, item in enumerate(rollouts) for pair in _rows(item, number)]
        return cls(rollouts, [row for row, _ in found], [turns for _, turns in found])

    @property
    def labels(self) -> list[tuple[tuple[int, int], int]]:
        """(R,) the group of each rollout. One whose turns all earned `None` has no score: it is a group of its own."""
        return [
            (item.sample.group, -1 if item.score is not None else number) for number, item in enumerate(self.rollouts)
        ]

    @property
    def lengths(self) -> np.ndarray:
        """(R,) the trained tokens of each rollout."""
        lengths = np.zeros(len(self.rollouts), np.int64)
        for row in self.rows:
            lengths[row.sequence] += row.trained
        return lengths

    @property
    def mask_RT(self) -> torch.Tensor:
        """1 where a rollout has a token; each line is a prefix of ones."""
        lengths = self.lengths
        longest = int(lengths.max(initial=0))
        return (torch.arange(longest)[None] < torch.from_numpy(lengths)[:, None]).float()

    def matrix_RT(self, column: str | Sequence[np.ndarray]) -> torch.Tensor:
        """A column of the rows (its name, or (N,) numbers for each row) with one line for each rollout, 0 behind it."""
        parts = [row.columns[column] for row in self.rows] if isinstance(column, str) else list(column)
        result = torch.zeros(self.mask_RT.shape)
        if parts:
            result[self._places()] = torch.from_numpy(np.concatenate(parts)).float()
        return result

    def columns_of(self, matrix_RT: torch.Tensor) -> list[Float32]:
        """The way back: (N,) numbers for each row."""
        if not self.rows:
            return []
        flat = matrix_RT[self._places()].detach().cpu().numpy().astype(np.float32)
        return np.split(flat, np.cumsum([row.trained for row in self.rows])[:-1])

    def with_columns(self, **columns: Sequence[Float32]) -> Experience:
        """The same with columns added: (N,) numbers for each row."""
        rows = [
            row.with_columns(**{name: values[number] for name, values in columns.items()})
            for number, row in enumerate(self.rows)
        ]
        return replace(self, rows=rows)

    def rows_of(self) -> list[list[int]]:
        """(R,) the indices of each rollout's rows."""
        found: list[list[int]] = [[] for _ in self.rollouts]
        for index, row in enumerate(self.rows):
            found[row.sequence].append(index)
        return found

    def select(self, chosen: Sequence[int]) -> tuple[Experience, list[int]]:
        """These rollouts, in this order; one that is named twice is there twice. And the index of each row's origin."""
        rows_of = self.rows_of()
        origin = [(sequence, index) for sequence, number in enumerate(chosen) for index in rows_of[number]]
        rows = [replace(self.rows[index], sequence=sequence) for sequence, index in origin]
        indices = [index for _, index in origin]
        return Experience([self.rollouts[i] for i in chosen], rows, [self.turns[i] for i in indices]), indices

    def turn_ends(self) -> dict[tuple[int, int], int]:
        """(rollout, turn) -> the place of the turn's last token in the rollout's line."""
        if not self.rows:
            return {}
        rollout, place = (axis.numpy() for axis in self._places())
        turn = np.concatenate(self.turns)
        turns = int(turn.max()) + 1
        keys, inverse = np.unique(rollout * turns + turn, return_inverse=True)
        ends = np.zeros(len(keys), np.int64)
        np.maximum.at(ends, inverse, place)
        return {(key // turns, key % turns): end for key, end in zip(keys.tolist(), ends.tolist(), strict=True)}

    def of_turns(self, numbers: Sequence[Sequence[float | None]]) -> list[Float32]:
        """A number for each turn of each rollout, as (N,) columns of the rows."""
        columns: list[Float32] = []
        for row, turns in zip(self.rows, self.turns, strict=True):
            own = np.array([np.nan if v is None else v for v in numbers[row.sequence]], np.float32)
            columns.append(own[turns])
        return columns

    def _places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each trained token, row after row, stands in the (R, T) view."""
        rollout = np.repeat([row.sequence for row in self.rows], [row.trained for row in self.rows])
        turn = np.concatenate(self.turns)
        order = np.lexsort((np.arange(len(turn)), turn, rollout))  # by rollout, then turn, then as it stands
        starts = np.cumsum(self.lengths) - self.lengths
        place = np.empty(len(turn), np.int64)
        place[order] = np.arange(len(turn)) - starts[rollout[order]]
        return torch.from_numpy(rollout), torch.from_numpy(place)


def _rows(item: Scored, number: int) -> list[tuple[Row, Int32]]:
    # `turns` is -1 where nothing was sampled, which picks the element appended here.
    trained = np.array([earned is not None for earned in item.earned] + [False])
    found: list[tuple[Row, Int32]] = []
    for trajectory in item.episode.trajectories:
        turns, logprobs = trajectory.turns, trajectory.logprobs
        mask: Bool = (turns >= 0) & trained[turns]
        if not mask.any():
            continue
        if np.isnan(logprobs[mask]).any() and not item.episode.retokenized:
            raise TrainingError(
                f"rollout {item.sample.rollout.rollout_id} has tokens without log-probs: what sampled them "
                "returns none, so there is no policy ratio; serve the model with the native engine"
            )
        end = int(np.flatnonzero(mask)[-1]) + 1  # nothing after the last trained token can reach the loss
        row = Row(trajectory.token_ids[:end], mask[:end], {"rollout_logprobs": logprobs[mask]}, number)
        found.append((row, turns[mask]))
    return found
