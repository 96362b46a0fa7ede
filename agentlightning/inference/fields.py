"""The fields that chat completion and completion requests share, checked and read.

Called by `chat_request.py`, `completion_request.py` and `chat.py`. Refusals are `RequestError`s with status 400 that
name the field.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

from agentlightning.types import RequestError

from .sampling import SamplingParams

Json = dict[str, Any]

MAX_CHOICES = 128
"""Most responses of one request (`n`)."""
COMMON = frozenset(
    {
        *("model", "temperature", "top_p", "top_k", "max_tokens", "stop", "stop_token_ids", "seed", "n", "logprobs"),
        *("return_token_ids", "stream", "stream_options"),
    }
)
NO_EFFECT = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "reasoning_effort", "verbosity"),
    }
)
"""Fields that OpenAI's servers use for accounting, routing, caching and speed, or that only some models know; clients
send them unasked, and here they don't change the answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
}
"""Fields that are not supported yet, with the values that ask for nothing."""


def read_fields(body: Any, honoured: Collection[str], neutral: Mapping[str, tuple[Any, ...]]) -> Json:
    """The fields of a request body that are not null.

    Args:
        body: The JSON value that the client sent.
        honoured: Fields that count, beside `COMMON`.
        neutral: Values that ask for nothing, beside `NEUTRAL`.

    Raises:
        RequestError: it is not an object, or has a field that is not supported.
    """
    if not isinstance(body, dict):
        raise bad("body", "must be a JSON object")
    fields = {name: value for name, value in cast(Json, body).items() if value is not None}
    for name, value in fields.items():
        if name in honoured or name in COMMON or name in NO_EFFECT:
            continue
        if value not in neutral.get(name, ()) and value not in NEUTRAL.get(name, ()):
            raise unsupported(name, "is not supported by the native engine yet: leave it out")
    return fields


def bad(param: str, problem: str) -> RequestError:
    """The error of a field with a wrong value."""
    return RequestError(f"`{param}` {problem}", param=param)


def unsupported(param: str, problem: str) -> RequestError:
    """The error of a field that asks for something that can't be had."""
    return RequestError(f"`{param}` {problem}", param=param, code="unsupported_parameter")


def as_object(where: str, value: Any) -> Json:
    """A value that must be an object."""
    if not isinstance(value, dict):
        raise bad(where, "must be an object")
    return cast(Json, value)


def optional(fields: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """A field of a type, `None` where it is absent. Whole numbers count as floats, booleans never as numbers."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
        names = {str: "a string", bool: "true or false", int: "a whole number", float: "a number", dict: "an object"}
        raise bad(name, f"must be {names[kind]}, not {type(value).__name__}")
    try:
        return kind(value)
    except OverflowError as error:
        raise bad(name, "is too large") from error


def list_of(fields: Json, name: str, kind: type[Any]) -> list[Any]:
    """A field that is a list; a string alone is a list of one."""
    value = fields.get(name, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or any(type(item) is not kind for item in cast(list[Any], values)):
        raise bad(name, "must be a string or a list of strings" if kind is str else "must be a list of whole numbers")
    return cast(list[Any], values)


def sampling(fields: Json, *, max_tokens: int | None, top_logprobs: int, stop: tuple[str, ...] = ()) -> SamplingParams:
    """How to sample: the shared fields, and what the interfaces read in their own ways.

    Args:
        fields: Of the request.
        max_tokens: As in `SamplingParams`.
        top_logprobs: As in `SamplingParams`.
        stop: Stop strings beside those of the request.
    """
    temperature, top_p = optional(fields, "temperature", float), optional(fields, "top_p", float)
    top_k = optional(fields, "top_k", int)
    return SamplingParams(
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=0 if top_k in (None, -1) else top_k,  # -1 is vLLM's way to say all
        max_tokens=max_tokens,
        stop=(*list_of(fields, "stop", str), *stop),
        stop_token_ids=tuple(list_of(fields, "stop_token_ids", int)),
        seed=optional(fields, "seed", int),
        top_logprobs=top_logprobs,
    )


def choices(fields: Json) -> int:
    """`n`."""
    n = optional(fields, "n", int)
    if n is not None and not 1 <= n <= MAX_CHOICES:
        raise bad("n", f"is {n}; it must be from 1 to {MAX_CHOICES}")
    return n or 1


def include_usage(fields: Json) -> bool:
    """Whether a stream is to end with the usage. Also checks `stream`."""
    optional(fields, "stream", bool)
    given = cast(Json, optional(fields, "stream_options", dict) or {})
    options = {f"stream_options.{name}": value for name, value in given.items() if value}
    # Obfuscation is padding against listeners who count bytes; leaving it out changes no answer.
    if rest := options.keys() - {"stream_options.include_usage", "stream_options.include_obfuscation"}:
        raise unsupported(min(rest), "is not supported by the native engine yet: leave it out")
    return optional(options, "stream_options.include_usage", bool) or False
