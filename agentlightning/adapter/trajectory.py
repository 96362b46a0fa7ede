"""Spans of a rollout -> its `Episode`: turns with rewards, trajectories, and what went wrong on the way.

Called by the training loop for every finished rollout; uses `graph`.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.emitter import find_final_reward, get_reward_value
from agentlightning.llm_proxy.capture import TOKEN_IDS
from agentlightning.semconv import LLM_CALL_SPAN
from agentlightning.types import Episode, Span, Turn

from .base import TraceAdapter
from .graph import TokenGraph


def episode_from_spans(spans: Sequence[Span], rollout_id: str) -> Episode:
    """The episode of one attempt.

    Turns are the LLM calls whose spans carry tokens, in order of `sequence_id` (the choices of one call are turns of
    their own). A turn's reward is the last one emitted after it and before the next turn; the episode's reward is the
    last one of all. Calls that failed are no turns; calls that were answered without token ids are counted in
    `missing_token_ids`.

    Args:
        spans: Of one attempt, in any order.
        rollout_id: Whose they are.

    Raises:
        ValueError: the spans belong to several attempts or to another rollout.
    """
    owners = {(span.rollout_id, span.attempt_id) for span in spans}
    if len(owners) > 1 or any(owner != rollout_id for owner, _ in owners):
        raise ValueError(f"spans of one attempt of rollout {rollout_id!r} are needed, these are of {sorted(owners)}")
    ordered = sorted(spans, key=lambda span: span.sequence_id)
    graph = TokenGraph()
    rewards: list[float | None] = []
    missing = 0
    for span in ordered:
        if span.name == LLM_CALL_SPAN and span.token_call is not None:
            graph.add(span.token_call)
            rewards.append(None)
        elif span.attributes.get(TOKEN_IDS) == "unavailable":
            missing += 1
        elif rewards and (reward := get_reward_value(span)) is not None:
            rewards[-1] = reward
    trajectories, calls = graph.assemble()
    return Episode(
        rollout_id=rollout_id,
        turns=[Turn(call, reward) for call, reward in zip(calls, rewards, strict=True)],
        trajectories=trajectories,
        reward=find_final_reward(ordered),
        prefix_breaks=graph.breaks,
        missing_token_ids=missing,
    )


class TraceToEpisodes(TraceAdapter[list[Episode]]):
    """Spans of any number of rollouts -> one episode each, in order of first appearance.

    Each rollout's spans must be of one attempt, as `LightningStore.query_many_spans` returns them.
    """

    def episode(self, spans: Sequence[Span], rollout_id: str) -> Episode:
        """The episode of one attempt: override this to change what training sees. See `episode_from_spans`."""
        return episode_from_spans(spans, rollout_id)

    def adapt(self, source: Sequence[Span], /) -> list[Episode]:
        """The episodes. Raises as `episode_from_spans` does."""
        by_rollout: dict[str, list[Span]] = {}
        for span in source:
            by_rollout.setdefault(span.rollout_id, []).append(span)
        return [self.episode(spans, rollout_id) for rollout_id, spans in by_rollout.items()]
