"""Spans of a rollout -> its `Episode`: turns with rewards, trajectories, and what went wrong on the way.

Called by the training loop for every finished rollout; uses `graph`.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.emitter import find_final_reward, get_reward_value, get_rewards_from_span
from agentlightning.llm_proxy.capture import TOKEN_IDS
from agentlightning.semconv import GEN_AI_REQUEST_MODEL
from agentlightning.types import Episode, Span, Turn

from .base import TraceAdapter
from .graph import TokenGraph
from .tree import name_agents


def episode_from_spans(spans: Sequence[Span], rollout_id: str, model: str | None = None) -> Episode:
    """The episode of one attempt.

    Turns are the LLM calls whose spans carry tokens, in order of `sequence_id` (the choices of one call are turns of
    their own). A turn's reward is the last one emitted after it and before the next turn; the episode's reward is the
    last one of all. Calls that failed are no turns; calls that were answered without token ids are counted in
    `missing_token_ids`.

    Args:
        spans: Of one attempt, in any order.
        rollout_id: Whose they are.
        model: The policy in training: calls of other models are left out. `None`: there is no other.

    Raises:
        ValueError: the spans belong to several attempts or to another rollout.
    """
    owners = {(span.rollout_id, span.attempt_id) for span in spans}
    if len(owners) > 1 or any(owner != rollout_id for owner, _ in owners):
        raise ValueError(f"spans of one attempt of rollout {rollout_id!r} are needed, these are of {sorted(owners)}")
    ordered = sorted(spans, key=lambda span: span.sequence_id)
    graph = TokenGraph()
    rewards: list[float | None] = []
    callers: list[str | None] = []
    dimensions: dict[str, float] = {}
    agents = name_agents(ordered)
    for span in ordered:
        if span.token_call is not None:
            if model is None or span.token_call.model == model:
                graph.add(span.token_call)
                rewards.append(None)
                callers.append(agents.get(span.span_id))
        elif (reward := get_reward_value(span)) is not None:
            dimensions |= {each.name: each.value for each in get_rewards_from_span(span)}
            if rewards:
                rewards[-1] = reward
    trajectories, calls = graph.assemble()
    return Episode(
        rollout_id=rollout_id,
        turns=[Turn(*turn) for turn in zip(calls, rewards, callers, strict=True)],
        trajectories=trajectories,
        reward=find_final_reward(ordered),
        prefix_breaks=graph.breaks,
        missing_token_ids=missing_token_ids(ordered, model),
        rewards=dimensions,
    )


def missing_token_ids(spans: Sequence[Span], model: str | None) -> int:
    """How many calls of `model` (`None`: of any) were answered without token ids."""
    return sum(
        span.attributes.get(TOKEN_IDS) == "unavailable"
        and (model is None or span.attributes.get(GEN_AI_REQUEST_MODEL, model) == model)
        for span in spans
    )


class TraceToEpisodes(TraceAdapter[list[Episode]]):
    """Spans of any number of rollouts -> one episode each, in order of first appearance.

    Each rollout's spans must be of one attempt, as `LightningStore.query_many_spans` returns them.

    """

    model: str | None = None
    """The policy in training, see `episode_from_spans`; set by the training loop."""

    def episode(self, spans: Sequence[Span], rollout_id: str) -> Episode:
        """The episode of one attempt: override this to change what training sees. See `episode_from_spans`."""
        return episode_from_spans(spans, rollout_id, self.model)

    def adapt(self, source: Sequence[Span], /) -> list[Episode]:
        """The episodes. Raises as `episode_from_spans` does."""
        by_rollout: dict[str, list[Span]] = {}
        for span in source:
            by_rollout.setdefault(span.rollout_id, []).append(span)
        return [self.episode(spans, rollout_id) for rollout_id, spans in by_rollout.items()]
