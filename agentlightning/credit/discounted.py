"""The final reward, less of it the longer before the end a turn was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentlightning.types import Episode


def discounted(episode: Episode, group: Sequence[Episode], *, gamma: float = 0.9) -> list[float | None]:
    """`reward * gamma ** (turns that came after)`; `None` for all where the agent gave no reward.

    Args:
        gamma: 0 to 1; 1 is the rule `identical`. 0 gives earlier turns 0, which trains them: `last_turn` does not.

    Raises:
        ValueError: `gamma` is outside of that.
    """
    check_gamma(gamma)
    last = len(episode.turns) - 1
    reward = episode.reward
    return [None if reward is None else reward * gamma ** (last - turn) for turn in range(last + 1)]


def check_gamma(gamma: Any) -> None:
    """Raise `ValueError` unless `gamma` is a discount."""
    if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not 0 <= gamma <= 1:
        raise ValueError(f"`gamma` must be a number from 0 to 1, not {gamma!r}")
