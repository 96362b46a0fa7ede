"""Only the last turn earns the final reward; the others are not trained."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import Episode


def last_turn(episode: Episode, group: Sequence[Episode]) -> list[float | None]:
    """`None` for every turn but the last, which gets the final reward.

    For agents whose earlier turns say nothing about the outcome.
    """
    earlier: list[float | None] = [None] * (len(episode.turns) - 1)
    return [*earlier, episode.reward] if episode.turns else []
