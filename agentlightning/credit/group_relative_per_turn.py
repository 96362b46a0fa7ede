"""Each turn is compared with the same turn of the other rollouts of its task."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import Episode

from .comparison import compared
from .per_turn import per_turn
from .registry import relative


@relative
def group_relative_per_turn(
    episode: Episode, group: Sequence[Episode], *, gamma: float = 1.0, norm_by_std: bool = True
) -> list[float | None]:
    """`(v - mean) / (std + 1e-6)` of the numbers `v` that rule `per_turn` gives to the k-th turns of the group.

    So a turn counts as good if more was earned from it on than from the k-th turn of the others. A rollout with fewer
    turns takes no part in the comparison of later ones; a turn that no other rollout has got to is not trained. The
    numbers are advantages: the estimator does not touch them.

    Args:
        gamma: Discount of later rewards, see `per_turn`. 1: all that was earned from the turn on; 0: its own reward.
        norm_by_std: Divide by the sample standard deviation.

    Raises:
        ValueError: `gamma` is no discount.
    """
    others = [per_turn(other, group, gamma=gamma) for other in group]
    earned: list[float | None] = []
    for turn, value in enumerate(per_turn(episode, group, gamma=gamma)):
        same = [each[turn] for each in others if turn < len(each)]
        known = [number for number in same if number is not None]
        earned.append(None if value is None else compared(value, known, norm_by_std=norm_by_std))
    return earned
