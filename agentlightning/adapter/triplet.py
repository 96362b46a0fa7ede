"""Spans -> `Triplet`s: one (prompt, response, reward) for each LLM call. The views that Agent-Lightning 0.3 names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from agentlightning.emitter import get_reward_value
from agentlightning.semconv import GEN_AI_RESPONSE_ID, LLM_CALL_SPAN
from agentlightning.types import Span, TokenCall, Triplet

from .base import TraceAdapter


class LlmProxyTraceToTriplet(TraceAdapter[list[Triplet]]):
    """The calls that the gateway recorded, in order of `sequence_id`.

    A reward goes to the latest call before it that has none yet. Calls without token ids are left out.
    """

    def adapt(self, source: Sequence[Span], /) -> list[Triplet]:
        """The triplets of one attempt's spans."""
        return _triplets(source, lambda span: span.name == LLM_CALL_SPAN)


class TracerTraceToTriplet(TraceAdapter[list[Triplet]]):
    """The calls whose span name matches a pattern; otherwise as `LlmProxyTraceToTriplet`.

    Args:
        llm_call_match: Regular expression that is searched for in span names.

    Raises:
        re.error: `llm_call_match` is no regular expression.
    """

    def __init__(self, llm_call_match: str = r"openai\.chat\.completion") -> None:
        self._match = re.compile(llm_call_match)

    def adapt(self, source: Sequence[Span], /) -> list[Triplet]:
        """The triplets of one attempt's spans."""
        return _triplets(source, lambda span: self._match.search(span.name) is not None)


def _triplets(spans: Sequence[Span], is_call: Callable[[Span], bool]) -> list[Triplet]:
    triplets: list[Triplet] = []
    waiting: list[Triplet] = []  # calls without a reward so far
    for span in sorted(spans, key=lambda span: span.sequence_id):
        if span.token_call is not None and is_call(span):
            triplets.append(_triplet(span, span.token_call))
            waiting.append(triplets[-1])
        elif waiting and (reward := get_reward_value(span)) is not None:
            waiting.pop().reward = reward
    return triplets


def _triplet(span: Span, call: TokenCall) -> Triplet:
    response: dict[str, Any] = {"token_ids": call.response_ids.tolist()}
    if call.logprobs is not None:
        response["logprobs"] = call.logprobs.tolist()
    return Triplet(
        prompt={"token_ids": call.prompt_ids.tolist()},
        response=response,
        metadata={"response_id": span.attributes.get(GEN_AI_RESPONSE_ID), "model": call.model},
    )
