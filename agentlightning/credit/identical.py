"""The default rule: every turn earns the final reward."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import Episode


def identical(episode: Episode, group: Sequence[Episode]) -> list[float | None]:
    """The final reward for every turn; `None` for all where the agent gave none."""
    return [episode.reward] * len(episode.turns)
