"""Names of spans and attributes: the one vocabulary of emitters, tracers, the gateway and the adapters.

Names that begin with `agentlightning.` follow Agent-Lightning 0.3; names that begin with `gen_ai.` and `exception.`
follow OpenTelemetry's semantic conventions. Imports nothing but the standard library and pydantic.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

from pydantic import BaseModel

# -- span names -----------------------------------------------------------------------------------------------------

AGL_ANNOTATION: Final = "agentlightning.annotation"
AGL_MESSAGE: Final = "agentlightning.message"
AGL_OBJECT: Final = "agentlightning.object"
AGL_EXCEPTION: Final = "agentlightning.exception"
AGL_OPERATION: Final = "agentlightning.operation"
AGL_REWARD: Final = "agentlightning.reward"
AGL_VIRTUAL: Final = "agentlightning.virtual"

LLM_CALL_SPAN: Final = "openai.chat.completion"
"""The span that the gateway writes for an LLM call, whatever interface the agent used; adapters find calls by it."""
EMBEDDING_SPAN: Final = "openai.embeddings"
"""The span that the gateway writes for a call that makes vectors: nothing in it can be trained."""

# -- attributes of LLM calls, beside those of OpenTelemetry ----------------------------------------------------------

LLM_CALL_NUMBER: Final = "agentlightning.llm_call.number"
"""Which call of its attempt this is, from 1 in order of arrival."""
LLM_CALL_CHOICE: Final = "agentlightning.llm_call.choice"
"""Which of the call's choices the span holds, from 0."""
LLM_CALL_INTERFACE: Final = "agentlightning.llm_call.interface"
"""How the agent asked: `chat`, `completions`, `responses`, `messages` or `embeddings`."""
LLM_CALL_LATENCY_MS: Final = "agentlightning.llm_call.latency_ms"
"""Milliseconds from the request's arrival to the backend's answer."""
LLM_CALL_FIRST_CHUNK_MS: Final = "agentlightning.llm_call.first_chunk_ms"
"""Milliseconds from the request's arrival to the first chunk of its answer; streamed calls only."""
TOKEN_IDS: Final = "agentlightning.token_ids"
"""`recorded`: the span has a `token_call`. `unavailable`: the backend gave no ids, nothing can be trained on."""


# -- attributes -----------------------------------------------------------------------------------------------------


class LightningResourceAttributes(StrEnum):
    """What a span's resource says about the attempt that it belongs to."""

    ROLLOUT_ID = "agentlightning.rollout_id"
    ATTEMPT_ID = "agentlightning.attempt_id"
    SPAN_SEQUENCE_ID = "agentlightning.span_sequence_id"
    TRACER_NAME = "agentlightning.tracer.name"


class LightningSpanAttributes(StrEnum):
    """Attributes, and prefixes of numbered or named attributes, of the `agentlightning.*` spans."""

    REWARD = "agentlightning.reward"
    LINK = "agentlightning.link"
    TAG = "agentlightning.tag"
    MESSAGE_BODY = "agentlightning.message.body"
    OBJECT_TYPE = "agentlightning.object.type"
    OBJECT_LITERAL = "agentlightning.object.literal"
    OBJECT_JSON = "agentlightning.object.json"
    OPERATION_NAME = "agentlightning.operation.name"
    OPERATION_INPUT = "agentlightning.operation.input"
    OPERATION_OUTPUT = "agentlightning.operation.output"


class RewardAttributes(StrEnum):
    """The last part of `agentlightning.reward.{i}.{...}`."""

    REWARD_NAME = "name"
    REWARD_VALUE = "value"


class LinkAttributes(StrEnum):
    """The last part of `agentlightning.link.{i}.{...}`."""

    KEY_MATCH = "key_match"
    VALUE_MATCH = "value_match"


class LinkPydanticModel(BaseModel):
    """A link to the spans whose attribute `key_match` is `value_match`."""

    key_match: str
    value_match: str


class RewardPydanticModel(BaseModel):
    """One dimension of a reward."""

    name: str
    value: float


def reward_name_key(index: int) -> str:
    """Attribute that names dimension `index` of a reward; dimension 0 is the primary one."""
    return f"{AGL_REWARD}.{index}.name"


def reward_value_key(index: int) -> str:
    """Attribute with the value of dimension `index` of a reward."""
    return f"{AGL_REWARD}.{index}.value"


def reward_label_key(name: str) -> str:
    """Attribute of a reward span with a text that belongs to the reward, such as the answer that was scored."""
    return f"{AGL_REWARD}.label.{name}"


# -- OpenTelemetry --------------------------------------------------------------------------------------------------

EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

ERROR_TYPE: Final = "error.type"
"""Of a call that failed: the HTTP status that the agent got, or `cancelled`."""

GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
"""The request's messages, as JSON."""
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
"""The messages of the choices, as JSON."""
GEN_AI_TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
"""The request's tools, as JSON."""


def attempt_trace_id(rollout_id: str, attempt_id: str) -> str:
    """The trace id (32 hexadecimal digits) of all spans of one attempt.

    Derived from the ids, so that the gateway and the runner, who never talk to each other, write one trace.
    """
    return hashlib.blake2b(f"{rollout_id}/{attempt_id}".encode(), digest_size=16).hexdigest()
