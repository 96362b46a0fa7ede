"""Spans -> `Triplet`s: one (prompt, response, reward) for each LLM call. The views that Agent-Lightning 0.3 names.

Called by algorithms that work on whole calls (fine-tuning on the best ones, one's own), and by the training loop where
such an adapter was given to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agentlightning.emitter import get_reward_value
from agentlightning.semconv import LLM_CALL_SPAN
from agentlightning.types import Span, TokenCall, Triplet

from .base import TraceAdapter
from .reading import (
    answer_messages,
    image_urls,
    nested,
    order,
    request_messages,
    response_id,
    token_call,
    without_twins,
)
from .tree import NO_AGENT, RewardMatchPolicy, TraceTree, name_agents

_PROXY_SPANS = frozenset({LLM_CALL_SPAN, "raw_gen_ai_request", "litellm_request"})
"""Our gateway's spans, and those of LiteLLM's proxy in traces of Agent-Lightning 0.3."""

__all__ = ["LlmProxyTraceToTriplet", "RewardMatchPolicy", "TraceToTripletBase", "TraceTree", "TracerTraceToTriplet"]


class TraceToTripletBase(TraceAdapter[list[Triplet]]):
    """Base of the adapters that give one triplet per LLM call.

    A triplet's prompt is `{"token_ids", "raw_content", "image_urls"}`, its response `{"token_ids", "raw_content",
    "logprobs"}` (the latter where known), its metadata say which call and agent it is.
    """


class LlmProxyTraceToTriplet(TraceToTripletBase):
    """The calls that the gateway recorded, in order of `sequence_id`.

    A reward goes to the latest call before it that has none yet. Calls without token ids are left out.
    """

    def adapt(self, source: Sequence[Span], /) -> list[Triplet]:
        """The triplets of one attempt's spans."""
        agents = name_agents(source)
        calls = {span.span_id: span for span in without_twins([s for s in source if _is_call(s)])}
        triplets: list[Triplet] = []
        waiting: list[Triplet] = []  # calls without a reward so far
        for span in sorted(source, key=order):
            if span.span_id in calls:
                if (call := token_call(span)) is not None:
                    triplets.append(_triplet(span, call, agents.get(span.span_id, NO_AGENT)))
                    waiting.append(triplets[-1])
            elif waiting and (reward := get_reward_value(span)) is not None:
                waiting.pop().reward = reward
        return triplets


def _is_call(span: Span) -> bool:
    return span.token_call is not None or span.name in _PROXY_SPANS


class TracerTraceToTriplet(TraceToTripletBase):
    """The calls in a tree of spans (`TraceTree`): which ones, of which agents, and which reward belongs to which.

    Order is that of `sequence_id`. A reward counts for calls before it, never for those within its own span.

    Args:
        repair_hierarchy: Hang spans without a parent below the tightest span that encloses them in time. The gateway's
            spans have none, so without this they belong to no agent.
        llm_call_match: Regular expression that is searched for in span names.
        agent_match: Regular expression that is searched for in the name of the nearest agent around a call; `None`:
            the calls of all agents. Names come from the attributes that OpenAI Agents, AgentOps, AutoGen, LangGraph,
            agent-framework, Weave and LangChain write, or from `operation(**{"agent.name": ...})`.
        exclude_llm_call_in_reward: Whether calls within a span that gives a reward (a judge's) are left out.
        reward_match: Which call a reward belongs to.
        _skip_empty_token_spans: Whether calls without token ids are left out; else their `token_ids` are empty.

    Raises:
        re.error: a pattern is no regular expression.
        ValueError: `reward_match` is no policy.
    """

    def __init__(
        self,
        repair_hierarchy: bool = True,
        llm_call_match: str = r"openai\.chat\.completion",
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,
        reward_match: RewardMatchPolicy | str = RewardMatchPolicy.FIRST_OCCURRENCE,
        _skip_empty_token_spans: bool = False,
    ) -> None:
        for pattern in (llm_call_match, agent_match or ""):
            re.compile(pattern)
        self.repair_hierarchy = repair_hierarchy
        self.llm_call_match = llm_call_match
        self.agent_match = agent_match
        self.exclude_llm_call_in_reward = exclude_llm_call_in_reward
        self.reward_match = RewardMatchPolicy(reward_match)
        self._skip_empty_token_spans = _skip_empty_token_spans

    def adapt(self, source: Sequence[Span], /) -> list[Triplet]:
        """The triplets of one attempt's spans."""
        if not source:
            return []
        tree = self._tree(source)
        found = tree.find_llm_calls(
            llm_call_match=self.llm_call_match,
            agent_match=self.agent_match,
            within_reward=False if self.exclude_llm_call_in_reward else None,
        )
        calls = [(node, agent, token_call(node.span)) for node, agent in found]
        if self._skip_empty_token_spans:
            calls = [(node, agent, call) for node, agent, call in calls if call is not None]
        rewards = tree.match_rewards(self.reward_match, [node for node, _, _ in calls])
        triplets: list[Triplet] = []
        for node, agent, call in calls:
            triplets.append(_triplet(node.span, call, agent))
            triplets[-1].reward = rewards[node.id]
        return triplets

    def visualize(
        self, source: Sequence[Span], /, filename: str = "trace_tree", interested_span_match: str | None = None
    ) -> TraceTree:
        """Write the tree as the adapter sees it, see `TraceTree.visualize`.

        Returns:
            The tree.

        Raises:
            ValueError: no spans.
        """
        tree = self._tree(source)
        tree.visualize(filename, interested_span_match)
        return tree

    def _tree(self, source: Sequence[Span]) -> TraceTree:
        tree = TraceTree.from_spans(source)
        if self.repair_hierarchy:
            tree.repair_hierarchy()
        return tree


def _triplet(span: Span, call: TokenCall | None, agent: str) -> Triplet:
    messages = request_messages(span)
    response: dict[str, Any] = {
        "token_ids": [] if call is None else call.response_ids.tolist(),
        "raw_content": answer_messages(span),
    }
    if call is not None and call.logprobs is not None:
        response["logprobs"] = call.logprobs.tolist()
    metadata: dict[str, Any] = {
        "response_id": response_id(span),
        "agent_name": agent,
        "request": nested(span, "gen_ai.request"),
        "response": nested(span, "gen_ai.response"),
    }
    if call is not None:
        metadata |= {
            "model": call.model,
            "finish_reason": call.finish_reason,
            "weights_version": call.weights_version,
            "temperature": call.temperature,
        }
    return Triplet(
        prompt={
            "token_ids": [] if call is None else call.prompt_ids.tolist(),
            "raw_content": messages,
            "image_urls": image_urls(messages),
        },
        response=response,
        metadata=metadata,
    )
