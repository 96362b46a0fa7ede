"""Spans as the gateway and the emitters write them, for the tests of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentlightning.emitter import reward_attributes
from agentlightning.semconv import AGL_REWARD, ERROR_TYPE, GEN_AI_RESPONSE_ID, LLM_CALL_SPAN, TOKEN_IDS
from agentlightning.types import Span, TokenCall, TraceStatus


def span(sequence_id: int, name: str, attributes: dict[str, Any], **more: Any) -> Span:
    ids = {"rollout_id": "ro-1", "attempt_id": "at-1", **more}
    return Span.create(name, sequence_id=sequence_id, attributes=attributes, **ids)


def llm_call(
    sequence_id: int,
    prompt: list[int],
    response: list[int],
    *,
    name: str = LLM_CALL_SPAN,
    logprobs: bool = True,
    **more,
) -> Span:
    made = span(sequence_id, name, {TOKEN_IDS: "recorded", GEN_AI_RESPONSE_ID: f"chat-{sequence_id}"}, **more)
    made.token_call = TokenCall(
        model="m",
        prompt_ids=np.array(prompt, np.int32),
        response_ids=np.array(response, np.int32),
        logprobs=np.full(len(response), -0.5, np.float32) if logprobs else None,
        finish_reason="stop",
    )
    return made


def call_without_ids(sequence_id: int) -> Span:
    return span(sequence_id, LLM_CALL_SPAN, {TOKEN_IDS: "unavailable"})


def failed_call(sequence_id: int, kind: str = "400") -> Span:
    status = TraceStatus(status_code="ERROR", description="no")
    return span(sequence_id, LLM_CALL_SPAN, {ERROR_TYPE: kind}, status=status)


def reward(sequence_id: int, value: float, **more: Any) -> Span:
    return span(sequence_id, AGL_REWARD, reward_attributes(value), **more)
