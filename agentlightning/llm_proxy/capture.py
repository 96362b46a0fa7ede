"""Makes the spans of calls. Called by `gateway`; `adapter/` reads what is written here.

One span a call and choice. Usage belongs to the call as a whole, so it stands on the first choice only and sums over
spans stay right. The choices of one call share `gen_ai.response.id` and `agentlightning.llm_call.number`. Whatever
interface the agent used, messages are written as those of chat completions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import orjson

from agentlightning import semconv
from agentlightning.types import AttributeValue, RequestError, Span, TokenCall, TraceStatus

from .attempts import AttemptState
from .backend import Dialect, Json

_NUMBERS = {
    "temperature": semconv.GEN_AI_REQUEST_TEMPERATURE,
    "top_p": semconv.GEN_AI_REQUEST_TOP_P,
    "max_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "max_output_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "seed": semconv.GEN_AI_REQUEST_SEED,
}
_OPERATIONS: dict[Dialect, str] = {"completions": "text_completion", "embeddings": "embeddings"}
_USAGE = {
    "prompt_tokens": semconv.GEN_AI_USAGE_INPUT_TOKENS,
    "completion_tokens": semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
}


class CallRecord:
    """One call from its arrival to its spans.

    Args:
        attempt: Who calls.
        number: Which call of the attempt it is.
        interface: How the agent asks.
    """

    def __init__(self, attempt: AttemptState, number: int, interface: Dialect) -> None:
        self.number = number
        self.done = False
        """Whether its spans have been made."""
        self._attempt = attempt
        self._name = semconv.EMBEDDING_SPAN if interface == "embeddings" else semconv.LLM_CALL_SPAN
        self._started = time.time()
        self._clock = time.perf_counter()
        self.attributes: dict[str, AttributeValue] = {
            semconv.GEN_AI_OPERATION_NAME: _OPERATIONS.get(interface, "chat"),
            semconv.GEN_AI_PROVIDER_NAME: "openai",  # the convention's word for whose form messages and answers have
            semconv.LLM_CALL_INTERFACE: interface,
            semconv.LLM_CALL_NUMBER: number,
        }

    def request(self, body: Json) -> None:
        """Note the request with what the gateway forced, as a chat completion where it can be one.

        Raises:
            RequestError: 400, it is nested too deeply to be written down.
        """
        found = self.attributes
        found[semconv.GEN_AI_REQUEST_MODEL] = body["model"]
        try:
            if (messages := _messages(body)) is not None:
                found[semconv.GEN_AI_INPUT_MESSAGES] = _json(messages)
            if body.get("tools"):
                found[semconv.GEN_AI_TOOL_DEFINITIONS] = _json(body["tools"])
        except orjson.JSONEncodeError as error:
            raise RequestError(f"the request can't be written down: {error}", code="invalid_json") from error
        for field, name in _NUMBERS.items():
            if isinstance(body.get(field), (int, float)):
                found[name] = body[field]

    def first_chunk(self) -> None:
        """Note that the stream has begun."""
        if semconv.LLM_CALL_FIRST_CHUNK_MS not in self.attributes:
            self.attributes[semconv.LLM_CALL_FIRST_CHUNK_MS] = self._elapsed()

    def answered(self, response: Json, calls: Sequence[TokenCall]) -> list[Span]:
        """The spans of a call that the backend answered.

        Args:
            response: The answer as a chat completion, or that of embeddings.
            calls: Its choices as tokens, or nothing.

        Raises:
            RequestError: 502 if the answer has no choices, or token ids for some of them only.
        """
        self._note_answer(response)
        if self._name == semconv.EMBEDDING_SPAN:
            self.done = True
            return [self._span({**self.attributes, **_usage(response)}, TraceStatus(status_code="OK"))]
        choices = cast("list[Json]", response.get("choices") or [])
        if not choices:
            raise RequestError("the backend's answer has no `choices`", status=502)
        if calls and len(calls) != len(choices):
            raise RequestError(f"the backend returned token ids for {len(calls)} of {len(choices)} choices", status=502)
        self.attributes[semconv.TOKEN_IDS] = "recorded" if calls else "unavailable"
        spans = [self._choice(index, choice) for index, choice in enumerate(choices)]
        spans[0].attributes.update(_usage(response))
        for span, call in zip(spans, calls, strict=False):
            span.token_call = call
        self.done = True
        return spans

    def failed(self, kind: str, message: str) -> list[Span]:
        """The span of a call that got no whole answer.

        Args:
            kind: The HTTP status that the agent gets, or `cancelled`.
            message: What went wrong.
        """
        self.done = True
        self.attributes[semconv.ERROR_TYPE] = kind
        self.attributes[semconv.LLM_CALL_LATENCY_MS] = self._elapsed()
        return [self._span(self.attributes, TraceStatus(status_code="ERROR", description=message))]

    def _note_answer(self, response: Json) -> None:
        self.attributes[semconv.LLM_CALL_LATENCY_MS] = self._elapsed()
        for field, name in (("id", semconv.GEN_AI_RESPONSE_ID), ("model", semconv.GEN_AI_RESPONSE_MODEL)):
            if isinstance(response.get(field), str):
                self.attributes[name] = response[field]

    def _choice(self, index: int, choice: Json) -> Span:
        attributes: dict[str, AttributeValue] = {
            **self.attributes,
            semconv.LLM_CALL_CHOICE: index,
            semconv.GEN_AI_RESPONSE_FINISH_REASONS: [str(choice.get("finish_reason"))],
            semconv.GEN_AI_OUTPUT_MESSAGES: _json([choice.get("message")]),
        }
        return self._span(attributes, TraceStatus(status_code="OK"))

    def _elapsed(self) -> float:
        return round((time.perf_counter() - self._clock) * 1000, 3)

    def _span(self, attributes: dict[str, AttributeValue], status: TraceStatus) -> Span:
        return Span.create(
            self._name,
            rollout_id=self._attempt.rollout_id,
            attempt_id=self._attempt.attempt_id,
            trace_id=self._attempt.trace_id,
            attributes=attributes,
            start_time=self._started,
            status=status,
        )


def _messages(body: Json) -> Any:
    """What the model is asked; the text prompts of completions as messages of a user, those of token ids left out."""
    if "prompt" not in body:
        return body.get("messages", body.get("input"))
    prompts: list[Any] = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    return [{"role": "user", "content": prompt} for prompt in prompts if isinstance(prompt, str)]


def _usage(response: Json) -> dict[str, AttributeValue]:
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return {}
    given = cast(Json, usage)
    return {name: given[field] for field, name in _USAGE.items() if isinstance(given.get(field), int)}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
