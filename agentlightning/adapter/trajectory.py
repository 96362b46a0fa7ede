"""Spans of a rollout -> its `Episode`: turns with rewards, trajectories, and what went wrong on the way.

Called by the training loop for every finished rollout; uses `graph`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentlightning.emitter import find_final_reward, get_reward_labels, get_reward_value, get_rewards_from_span
from agentlightning.semconv import ERROR_TYPE, GEN_AI_REQUEST_MODEL, LLM_CALL_SPAN, TOKEN_IDS
from agentlightning.types import Episode, Span, TokenCall, Turn

from .base import TraceAdapter
from .graph import TokenGraph
from .tree import name_agents

_BACKEND_FAULTS = frozenset(["429", *map(str, range(500, 600))])

Retokenize = Callable[[Span], TokenCall | None]
"""Makes the tokens of a call that has none, see `verl.retokenize.Retokenizer`; `None` where it can't."""


def episode_from_spans(
    spans: Sequence[Span], rollout_id: str, model: str | None = None, retokenize: Retokenize | None = None
) -> Episode:
    """The episode of one attempt.

    Turns are the LLM calls whose spans carry tokens, in order of `sequence_id` (the choices of one call are turns of
    their own). A turn's reward is the last one emitted after it and before the next turn; the episode's reward is the
    last one of all. Calls that failed are no turns; calls that were answered without token ids are counted in
    `missing_token_ids`.

    Args:
        spans: Of one attempt, in any order.
        rollout_id: Whose they are.
        model: The policy in training: calls of other models are left out. `None`: there is no other.
        retokenize: Makes tokens for the calls that have none, which are then turns and counted in `retokenized`.

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
    labels: dict[str, str] = {}
    agents = name_agents(ordered)
    made: dict[str, TokenCall] = {}
    if retokenize is not None:
        lacking = [span for span in ordered if _lacks_ids(span, model)]
        made = {span.span_id: call for span in lacking if (call := retokenize(span)) is not None}
    for span in ordered:
        call = span.token_call or made.get(span.span_id)
        if call is not None:
            if model is None or call.model == model:
                graph.add(call)
                rewards.append(None)
                callers.append(agents.get(span.span_id))
        elif (reward := get_reward_value(span)) is not None:
            dimensions |= {each.name: each.value for each in get_rewards_from_span(span)}
            labels |= get_reward_labels(span)
            if rewards:
                rewards[-1] = reward
    trajectories, calls = graph.assemble()
    return Episode(
        rollout_id=rollout_id,
        turns=[Turn(*turn) for turn in zip(calls, rewards, callers, strict=True)],
        trajectories=trajectories,
        reward=find_final_reward(ordered),
        prefix_breaks=graph.breaks,
        missing_token_ids=missing_token_ids(ordered, model) - len(made),
        backend_failures=backend_failures(ordered, model),
        retokenized=len(made),
        rewards=dimensions,
        labels=labels,
    )


def missing_token_ids(spans: Sequence[Span], model: str | None) -> int:
    """How many calls of `model` (`None`: of any) were answered without token ids."""
    return sum(_lacks_ids(span, model) for span in spans)


def backend_failures(spans: Sequence[Span], model: str | None) -> int:
    """How many calls of `model` (`None`: of any) the gateway or its backend failed."""
    return sum(
        str(span.attributes.get(ERROR_TYPE, "")) in _BACKEND_FAULTS
        and (model is None or span.attributes.get(GEN_AI_REQUEST_MODEL, model) == model)
        for span in spans
        if span.name == LLM_CALL_SPAN
    )


def _lacks_ids(span: Span, model: str | None) -> bool:
    return span.attributes.get(TOKEN_IDS) == "unavailable" and (
        model is None or span.attributes.get(GEN_AI_REQUEST_MODEL, model) == model
    )


class TraceToEpisodes(TraceAdapter[list[Episode]]):
    """Spans of any number of rollouts -> one episode each, in order of first appearance.

    Each rollout's spans must be of one attempt, as `LightningStore.query_many_spans` returns them.

    """

    model: str | None = None
    """The policy in training, see `episode_from_spans`; set by the training loop."""
    retokenize: Retokenize | None = None
    """Likewise."""

    def episode(self, spans: Sequence[Span], rollout_id: str) -> Episode:
        """The episode of one attempt: override this to change what training sees. See `episode_from_spans`."""
        return episode_from_spans(spans, rollout_id, self.model, self.retokenize)

    def adapt(self, source: Sequence[Span], /) -> list[Episode]:
        """The episodes. Raises as `episode_from_spans` does."""
        by_rollout: dict[str, list[Span]] = {}
        for span in source:
            by_rollout.setdefault(span.rollout_id, []).append(span)
        return [self.episode(spans, rollout_id) for rollout_id, spans in by_rollout.items()]
