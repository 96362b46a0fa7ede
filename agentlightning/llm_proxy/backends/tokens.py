"""Takes the exact tokens out of an answer in vLLM's form. Used by `openai`, and by `sglang` after renaming.

Token ids that don't fit the log-probs or the usage are refused: training on them would go wrong in silence.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from agentlightning.types import RequestError, TokenCall
from agentlightning.types.tokens import Float32, Int32

from ..backend import Json

MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Sampled:
    """What is known of a call's tokens before the answer comes."""

    model: str
    """The agent's name for it."""
    temperature: float
    """That of the log-probs."""
    exact: bool
    """Whether the log-probs are those at the sampling temperature; others are not kept."""
    weights_version: int
    """Where the answer names none."""
    echo: bool = False
    """Whether the log-probs begin with those of the prompt, as with `echo` of completions."""


def token_calls(source: str, response: Json, sampled: Sampled) -> tuple[list[TokenCall], int]:
    """The tokens of every choice of an answer, and how many choices were sampled by several versions of the weights.

    No calls where a choice has no token ids. Prompt ids are those of the choice, else those of the whole answer.

    Raises:
        RequestError: 502, the tokens are malformed, or their numbers disagree.
    """
    choices = cast("list[Json]", response["choices"])
    prompts = [choice.get("prompt_token_ids") or response.get("prompt_token_ids") for choice in choices]
    if any(prompt is None for prompt in prompts) or any(choice.get("token_ids") is None for choice in choices):
        return [], 0
    try:
        read = [_call(choice, prompt, sampled) for choice, prompt in zip(choices, prompts, strict=True)]
        _check_usage(response.get("usage"), sum(len(call.response_ids) for call, _ in read))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise RequestError(f"the backend at {source} sent malformed tokens: {error}", status=502) from error
    return [call for call, _ in read], sum(mixed for _, mixed in read)


def _call(choice: Json, prompt: Any, sampled: Sampled) -> tuple[TokenCall, bool]:
    prompt_ids, response_ids = _ids(prompt), _ids(choice["token_ids"])
    versions = _versions(choice.get("weight_versions"))
    logprobs = _logprobs(choice.get("logprobs"), len(response_ids), len(prompt_ids) if sampled.echo else 0)
    call = TokenCall(
        model=sampled.model,
        prompt_ids=prompt_ids,
        response_ids=response_ids,
        logprobs=logprobs if sampled.exact else None,
        finish_reason=str(choice.get("finish_reason")),
        weights_version=min(versions, default=sampled.weights_version),
        temperature=sampled.temperature,
    )
    return call, len(versions) > 1


def _ids(values: Any) -> Int32:
    # `array` refuses floats, negative numbers and those that don't fit, which numpy would cut down in silence.
    # Unsigned, as it takes less than half the time of a signed one.
    ids = np.frombuffer(array("I", values), np.uint32)
    if len(ids) and ids.max() > MAX_ID:
        raise ValueError(f"token id {ids.max()} is larger than {MAX_ID}")
    return ids.view(np.int32)


def _logprobs(given: Any, count: int, echoed: int) -> Float32 | None:
    """From `{"content": [{"logprob"}]}` of chat or `{"token_logprobs": []}` of completions."""
    if given is None:
        return None
    values: Any = given.get("token_logprobs")
    if values is None:
        content = given.get("content")
        if content is None:
            return None
        values = [token["logprob"] for token in content]
    if echoed and len(values) == echoed + count:
        values = values[echoed:]
    if len(values) != count:
        raise ValueError(f"{count} token ids but {len(values)} log-probs")
    return np.frombuffer(array("f", values), np.float32)


def _versions(spans: Any) -> set[int]:
    """The distinct versions of vLLM's `weight_versions`; empty where one is no whole number."""
    names = [span["version"] for span in spans or []]
    try:
        return {int(name) for name in names}
    except ValueError:
        return set()  # a label such as "default": whoever set it knows what it means, we don't


def _check_usage(usage: Any, count: int) -> None:
    told = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if told is not None and told != count:
        raise ValueError(f"{count} token ids but `usage.completion_tokens` is {told}")
