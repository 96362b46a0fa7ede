"""`Sample`: one finished rollout of a task, and whether it can be trained on. `daemon` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentlightning.emitter.reward import LARGEST
from agentlightning.types import AttemptedRollout, Episode, RewardError, Rollout


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished rollout of a task."""

    task: int
    """Index of the task."""
    sample: int
    rollout: Rollout
    episodes: Mapping[str, Episode]
    """What each policy did in it, by the policy's name; the rewards are the same."""
    error: str | None
    """Why the attempt failed; `None` where it did not."""
    called: bool = True
    """Whether there is a call of a model in its spans, whatever the adapter made of them."""
    draw: int = 0
    """How often the step had drawn the task before: dynamic sampling may come back to it."""
    greedy: bool = False
    """Whether it was sampled greedily, to be the baseline of its group and not to be trained on."""

    @property
    def group(self) -> tuple[int, int]:
        """Rollouts that are compared with each other have the same one."""
        return self.task, self.draw

    @property
    def step(self) -> int:
        """The training step that ran it."""
        return (self.rollout.metadata or {})["step"]

    @property
    def episode(self) -> Episode:
        """That of the first policy; of the only one, as a rule."""
        return next(iter(self.episodes.values()))

    @property
    def reward(self) -> float | None:
        """The final reward; `None` where the agent gave none."""
        return self.episode.reward

    @property
    def torn(self) -> bool:
        """Whether the rollout can't be trained on, through no fault of the policy's.

        It never reached a model, was cut off from outside, failed after a model's endpoint had failed it, a call was
        answered without its token ids, or a reward of it is not a finite number.
        """
        return self.flaw is not None

    @property
    def flaw(self) -> str | None:
        """Why it is `torn`, for people."""
        attempt = self.rollout.attempt if isinstance(self.rollout, AttemptedRollout) else None
        episodes = self.episodes.values()
        if attempt is None or attempt.status in ("timeout", "unresponsive") or self.rollout.status == "cancelled":
            return f"was cut off ({attempt.status if attempt else self.rollout.status})"
        if any(episode.missing_token_ids > 0 for episode in episodes):
            return "has calls without token ids"
        if not any(episode.turns for episode in episodes):
            return f"never reached a model{f': {self.error}' if self.error else ''}"
        if self.error is not None and any(episode.backend_failures > 0 for episode in episodes):
            return f"failed after the model's endpoint had failed it: {self.error}"
        if self.error is not None and self.error.split(":")[0].endswith(RewardError.__name__):
            return f"has no number for a reward: {self.error}"
        for episode in episodes:
            if (name := _not_finite(episode)) is not None:
                return f"has a reward ({name}) that is not finite in float32"
        return None


def _not_finite(episode: Episode) -> str | None:
    """What among an episode's rewards is NaN, infinite or too large for float32."""
    known = {"the final one": episode.reward, **episode.rewards}
    known |= {f"of turn {number}": turn.reward for number, turn in enumerate(episode.turns)}
    return next((name for name, value in known.items() if value is not None and not abs(value) <= LARGEST), None)
