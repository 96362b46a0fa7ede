"""Each turn earns the reward that was emitted after it and before the next one."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import Episode

from .discounted import check_gamma


def per_turn(episode: Episode, group: Sequence[Episode], *, gamma: float = 0.0) -> list[float | None]:
    """The discounted sum of a turn's own reward and those of later turns.

    A turn without a reward adds nothing to earlier ones. One that has none itself and, with `gamma` above 0, none after
    it either, is not trained. The final reward is the last turn's. Which reward belongs to which turn is decided by
    `sequence_id`: see `Turn.reward`.

    Args:
        gamma: 0 to 1. 0: a turn's own reward only. 1: everything that was earned from this turn on.

    Raises:
        ValueError: `gamma` is outside of that.
    """
    check_gamma(gamma)
    earned: list[float | None] = []
    later: float | None = None
    for turn in reversed(episode.turns):
        coming = None if later is None or gamma == 0 else gamma * later
        later = coming if turn.reward is None else turn.reward + (coming or 0.0)
        earned.append(later)
    return earned[::-1]
