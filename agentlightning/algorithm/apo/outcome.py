"""What became of one rollout, and which one it was: what trials return and proposers read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Split = Literal["train", "val", "test"]


class Place(NamedTuple):
    """One rollout of one task."""

    split: Split
    task: int
    """Index in the dataset of that split."""
    repeat: int = 0
    """0, or which further rollout of the same prompts on the same task it is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One rollout of one candidate, finished."""

    place: Place
    rollout_id: str
    status: str
    """`succeeded`, `failed` or `cancelled`."""
    reward: float
    """The final reward; 0 where there was none, as for a failure."""
    rewarded: bool
    """Whether the agent gave a reward."""
    input: Any = None
    """The task."""
    error: str = ""
    """Type and message of the exception that ended it; empty without one."""
    feedback: tuple[str, ...] = ()
    """What agent or judge said beside the number: messages, labels of the reward, exceptions that were caught."""
    conversations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The messages of each LLM call (`messages`, `tools`), in order."""
    calls: int = 0
    """Requests to LLMs."""
    usage: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Model -> input and output tokens of its calls."""

    @property
    def failed(self) -> bool:
        return self.status != "succeeded"

    @property
    def input_tokens(self) -> int:
        return sum(used[0] for used in self.usage.values())

    @property
    def output_tokens(self) -> int:
        return sum(used[1] for used in self.usage.values())
