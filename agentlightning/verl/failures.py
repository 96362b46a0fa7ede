"""Steps in which nothing could be learned: they are counted, and after a few in a row the run stops with the reason.

Called by the loop in `trainer` before a step learns, so that what was learned until then can still be saved.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from agentlightning.types import TrainingError

from .collect import Collected
from .daemon import Sample

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 2
"""Steps in a row in which no group could be trained because of failures, after which the run stops."""


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
        """
        samples = collected.samples
        if (collected.groups or collected.silent) and any(sample.reward is not None for sample in samples):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        reason = _why_nothing_is_learned(samples)
        if self._in_a_row >= MAX_FAILED_STEPS or last:
            raise TrainingError(f"nothing could be learned in {self._in_a_row} steps in a row: {reason}")
        logger.warning("nothing could be learned in this step: %s", reason)


def _why_nothing_is_learned(samples: Sequence[Sample]) -> str:
    errors = Counter(sample.error for sample in samples if sample.error is not None)
    episodes = [episode for sample in samples for episode in sample.episodes.values()]
    if errors:
        reason, count = errors.most_common(1)[0]
        return f"{errors.total()} of {len(samples)} rollouts failed, {count} of them with: {reason}"
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
