"""The body of a completion request (OpenAI's `/v1/completions`), checked.

Called by `service.py`. As with chat completions, every field is honoured, known to have no effect, or refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from .fields import bad, choices, include_usage, optional, read_fields, sampling
from .sampling import MAX_TOP_LOGPROBS, SamplingParams

DEFAULT_MAX_TOKENS = 16
"""As OpenAI has it."""
MAX_RESPONSES = 2048
"""Most responses of one request: prompts times `n`."""
NEUTRAL: dict[str, tuple[Any, ...]] = {"echo": (False,), "suffix": ("",)}


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What a completion request asks for."""

    model: str | None
    prompts: list[str] | list[list[int]]
    """As text or as token ids."""
    params: SamplingParams
    n: int
    """Responses to each prompt."""
    logprobs: bool
    return_token_ids: bool
    include_usage: bool


def parse_completion_request(body: Any) -> CompletionRequest:
    """Check a request body.

    Args:
        body: The JSON value that the client sent.

    Raises:
        RequestError: it is not a request that this engine can serve as it stands; the message names the field.
    """
    fields = read_fields(body, ("prompt", "best_of"), NEUTRAL)
    n, prompts = choices(fields), _prompts(fields.get("prompt"))
    if n * len(prompts) > MAX_RESPONSES:
        raise bad("prompt", f"asks for {n * len(prompts)} responses; at most {MAX_RESPONSES} are given to one request")
    if (optional(fields, "best_of", int) or n) != n:
        raise bad("best_of", f"must be {n}, as `n` is: the native engine doesn't pick among responses")
    limit, top = optional(fields, "max_tokens", int), optional(fields, "logprobs", int)
    if top is not None and not 0 <= top <= MAX_TOP_LOGPROBS:
        raise bad("logprobs", f"is {top}; it must be from 0 to {MAX_TOP_LOGPROBS}")
    return CompletionRequest(
        model=optional(fields, "model", str),
        prompts=prompts,
        params=sampling(fields, max_tokens=DEFAULT_MAX_TOKENS if limit is None else limit, top_logprobs=top or 0),
        n=n,
        logprobs=top is not None,
        return_token_ids=optional(fields, "return_token_ids", bool) or False,
        include_usage=include_usage(fields),
    )


def _prompts(value: Any) -> list[str] | list[list[int]]:
    if isinstance(value, str):
        return [value]
    values = cast(list[Any], value) if isinstance(value, list) else []
    if values and all(isinstance(item, str) for item in values):
        return values
    if values and all(type(item) is int for item in values):
        return [values]
    if values and all(_is_ids(item) for item in values):
        return values
    raise bad("prompt", "must be a string, a list of strings, a list of token ids or a list of such lists")


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in cast(list[Any], value))
