"""Each agent earns a reward of its own, and is compared with itself in the other rollouts of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from agentlightning.types import Episode, Turn

from .comparison import compared
from .registry import relative

Others = Literal["final", "none"]


@relative
def by_agent(
    episode: Episode,
    group: Sequence[Episode],
    *,
    rewards: Mapping[str, str] | None = None,
    others: Others = "final",
    norm_by_std: bool = True,
) -> list[float | None]:
    """`(v - mean) / (std + 1e-6)` of the rewards `v` of one agent in the rollouts in which it spoke.

    An agent's reward is the last value of the reward dimension that has its name:
    `emit_reward({"solver": 1.0, "critic": 0.5}, primary_key="solver")`. All its turns get the same number. The agent
    of a turn is the one whose span is around its call (`Turn.agent`); where no span tells, the name of the model that
    was asked stands for it. An agent that spoke in one rollout only is not trained. The numbers are advantages: the
    estimator does not touch them.

    Args:
        rewards: By agent, the name of its reward dimension, where that is not the agent's own name.
        others: What agents without a dimension earn: `final`, the final reward; `none`, nothing, they are not trained.
        norm_by_std: Divide by the sample standard deviation.

    Raises:
        ValueError: `others` or `rewards` is something else.
    """
    if others not in get_args(Others):
        raise ValueError(f"`others` must be one of {', '.join(get_args(Others))}, not {others!r}")
    given: Any = {} if rewards is None else rewards
    if not isinstance(given, Mapping):
        raise ValueError(f"`rewards` must map agents to names of reward dimensions, not {given!r}")
    names: dict[str, str] = {str(agent): str(name) for agent, name in given.items()}  # pyright: ignore

    def earned(by: Episode, agent: str) -> float | None:
        return by.rewards.get(names.get(agent, agent), by.reward if others == "final" else None)

    speakers = [{_agent(turn) for turn in each.turns} for each in group]
    numbers: dict[str, float | None] = {}
    for agent in {_agent(turn) for turn in episode.turns}:
        value = earned(episode, agent)
        same = [earned(each, agent) for each, speaking in zip(group, speakers, strict=True) if agent in speaking]
        known = [number for number in same if number is not None]
        numbers[agent] = None if value is None else compared(value, known, norm_by_std=norm_by_std)
    return [numbers[_agent(turn)] for turn in episode.turns]


def _agent(turn: Turn) -> str:
    return turn.call.model if turn.agent is None else turn.agent
