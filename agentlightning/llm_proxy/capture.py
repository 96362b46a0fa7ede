"""Makes the spans of LLM calls. Called by `gateway`; `adapter/` reads what is written here.

One span a call and choice. Usage belongs to the call as a whole, so it stands on the first choice only and sums over
spans stay right. The choices of one call share `gen_ai.response.id` and `agentlightning.llm_call.number`.
"""

from __future__ import annotations

import time
from typing import Any, Final, cast

import orjson

from agentlightning import semconv
from agentlightning.types import AttributeValue, ChatReply, RequestError, Span, TraceStatus

from .attempts import AttemptState

CALL_NUMBER: Final = "agentlightning.llm_call.number"
"""Which call of its attempt this is, from 1 in order of arrival."""
CHOICE_INDEX: Final = "agentlightning.llm_call.choice"
"""Which of the call's choices the span holds, from 0."""
LATENCY_MS: Final = "agentlightning.llm_call.latency_ms"
"""Milliseconds from the request's arrival to the backend's answer."""
TOKEN_IDS: Final = "agentlightning.token_ids"
"""`recorded`: the span has a `token_call`. `unavailable`: the backend gave no ids, nothing can be trained on."""

_NUMBERS = {
    "temperature": semconv.GEN_AI_REQUEST_TEMPERATURE,
    "top_p": semconv.GEN_AI_REQUEST_TOP_P,
    "max_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "seed": semconv.GEN_AI_REQUEST_SEED,
}


class CallRecord:
    """One call from its arrival to its spans.

    Args:
        attempt: Who calls.
        number: Which call of the attempt it is.
    """

    def __init__(self, attempt: AttemptState, number: int) -> None:
        self._attempt = attempt
        self._started = time.time()
        self._clock = time.perf_counter()
        self.attributes: dict[str, AttributeValue] = {semconv.GEN_AI_OPERATION_NAME: "chat", CALL_NUMBER: number}

    def request(self, body: dict[str, Any]) -> None:
        """Note the request as it goes to the backend, with what the gateway forced."""
        found = self.attributes
        found[semconv.GEN_AI_REQUEST_MODEL] = body["model"]
        found[semconv.GEN_AI_INPUT_MESSAGES] = _json(body["messages"])
        if body.get("tools"):
            found[semconv.GEN_AI_TOOL_DEFINITIONS] = _json(body["tools"])
        for field, name in _NUMBERS.items():
            if isinstance(body.get(field), (int, float)):
                found[name] = body[field]

    def answered(self, reply: ChatReply) -> list[Span]:
        """The spans of a call that the backend answered.

        Raises:
            RequestError: 502 if the answer has no choices, or token ids for some of them only.
        """
        response = reply.response
        choices = cast("list[dict[str, Any]]", response.get("choices") or [])
        if not choices:
            raise RequestError("the backend's answer has no `choices`", status=502)
        if reply.calls and len(reply.calls) != len(choices):
            raise RequestError(
                f"the backend returned token ids for {len(reply.calls)} of {len(choices)} choices", status=502
            )
        self._note_answer(response, recorded=bool(reply.calls))
        spans = [self._choice(index, choice) for index, choice in enumerate(choices)]
        spans[0].attributes.update(_usage(response.get("usage")))
        for span, call in zip(spans, reply.calls, strict=False):
            span.token_call = call
        return spans

    def failed(self, message: str) -> list[Span]:
        """The span of a call that got no answer."""
        self._note_latency()
        return [self._span(self.attributes, TraceStatus(status_code="ERROR", description=message))]

    def _note_answer(self, response: dict[str, Any], *, recorded: bool) -> None:
        self._note_latency()
        self.attributes[TOKEN_IDS] = "recorded" if recorded else "unavailable"
        for field, name in (("id", semconv.GEN_AI_RESPONSE_ID), ("model", semconv.GEN_AI_RESPONSE_MODEL)):
            if isinstance(response.get(field), str):
                self.attributes[name] = response[field]

    def _choice(self, index: int, choice: dict[str, Any]) -> Span:
        attributes: dict[str, AttributeValue] = {
            **self.attributes,
            CHOICE_INDEX: index,
            semconv.GEN_AI_RESPONSE_FINISH_REASONS: [str(choice.get("finish_reason"))],
            semconv.GEN_AI_OUTPUT_MESSAGES: _json([choice.get("message")]),
        }
        return self._span(attributes, TraceStatus(status_code="OK"))

    def _note_latency(self) -> None:
        self.attributes[LATENCY_MS] = round((time.perf_counter() - self._clock) * 1000, 3)

    def _span(self, attributes: dict[str, AttributeValue], status: TraceStatus) -> Span:
        return Span.create(
            semconv.LLM_CALL_SPAN,
            rollout_id=self._attempt.rollout_id,
            attempt_id=self._attempt.attempt_id,
            trace_id=self._attempt.trace_id,
            attributes=attributes,
            start_time=self._started,
            status=status,
        )


def _usage(usage: Any) -> dict[str, AttributeValue]:
    if not isinstance(usage, dict):
        return {}
    given = cast("dict[str, Any]", usage)
    names = {
        "prompt_tokens": semconv.GEN_AI_USAGE_INPUT_TOKENS,
        "completion_tokens": semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
    }
    return {name: given[field] for field, name in names.items() if isinstance(given.get(field), int)}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
