"""Steps in which nothing could be learned: they are counted, and after a few in a row the run stops with the reason.

Called by the loop in `trainer` before a step learns, so that what was learned until then can still be saved.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from agentlightning.inference.scheduler import DIVERGED
from agentlightning.types import TrainingError

from .collect import Collected
from .sample import Sample

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 2
"""Steps in a row in which no group could be trained because of failures, after which the run stops."""
_CALMER = (
    "lower `actor_rollout_ref.actor.optim.lr`, or `actor_rollout_ref.actor.grad_clip`, and begin anew or from an "
    "earlier checkpoint"
)
"""What to do where the weights diverged."""


class DivergedError(TrainingError):
    """The weights are no numbers any more: they are not worth a checkpoint."""


class FailedSteps:
    """Counts steps in a row that failures left with nothing to learn from."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def count(self, collected: Collected, *, last: bool) -> None:
        """Take note of what a step collected.

        Args:
            collected: Its rollouts.
            last: Whether there is no step after it.

        Raises:
            TrainingError: it was one too many.
            DivergedError: the weights are no numbers.
        """
        samples = collected.samples
        if (collected.groups or collected.silent) and any(sample.reward is not None for sample in samples):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        reason = _why_nothing_is_learned(samples)
        # Weights that are no numbers never are again.
        diverged = DIVERGED in reason
        if self._in_a_row >= MAX_FAILED_STEPS or last or diverged:
            steps = "this step" if self._in_a_row == 1 else f"{self._in_a_row} steps in a row"
            raise (DivergedError if diverged else TrainingError)(f"nothing could be learned in {steps}: {reason}")
        logger.warning("nothing could be learned in this step: %s", reason)


def _share(failed: int, rollouts: int) -> str:
    return "the only rollout" if rollouts == 1 else f"{failed} of {rollouts} rollouts"


def _those(count: int, failed: int) -> str:
    return "" if count == failed else f", {count} of them"


def _why_nothing_is_learned(samples: Sequence[Sample]) -> str:
    errors = Counter(sample.error for sample in samples if sample.error is not None)
    episodes = [episode for sample in samples for episode in sample.episodes.values()]
    if errors:
        reason, count = errors.most_common(1)[0]
        mend = f"; {_CALMER}" if DIVERGED in reason else ""
        return f"{_share(errors.total(), len(samples))} failed{_those(count, errors.total())} with: {reason}{mend}"
    if all(not episode.turns and not episode.missing_token_ids for episode in episodes):
        if any(sample.called for sample in samples):
            return (
                "the adapter left out every call of the LLM; `agent_match` finds names that instrumentation gives"
                ' (`OtelTracer(instrument=True)`) or `agl.operation(**{"agent.name": ...})`'
            )
        return "no rollout called the LLM; the agent must call the endpoint of the `llm` it is given"
    if all(sample.reward is None for sample in samples):
        return "no rollout has a reward; return a number from the agent, or call `agl.emit_reward`"
    if any(episode.missing_token_ids for episode in episodes):
        return "calls came back without token ids; serve the model with the native engine"
    return "the rewards are not finite; return a number from the agent that is neither NaN nor infinite"
