"""Spans of a rollout -> `Outcome`: the reward, and everything that a critic may learn from. Called by `trials`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentlightning.adapter import TraceToMessages
from agentlightning.adapter.reading import answer_messages, without_twins
from agentlightning.emitter import find_final_reward, get_message_value, get_reward_labels
from agentlightning.semconv import (
    AGL_ANNOTATION,
    AGL_REWARD,
    EXCEPTION_MESSAGE,
    EXCEPTION_TYPE,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    LLM_CALL_CHOICE,
    LLM_CALL_NUMBER,
)
from agentlightning.types import AttemptedRollout, Rollout, Span

from .outcome import Outcome, Place


def outcome_of(
    rollout: Rollout, place: Place, spans: Sequence[Span], adapter: TraceToMessages, given_up: Sequence[Span] = ()
) -> Outcome:
    """What became of a finished rollout.

    Args:
        rollout: As the store gave it.
        place: Which task it was.
        spans: Of its latest attempt.
        adapter: Reads the messages; only train rollouts are read, since no critic sees others.
        given_up: Spans of earlier attempts, as of a runner that died: they count as paid, and for nothing else.
    """
    reward = find_final_reward(list(spans))
    calls = [*_calls(given_up), *_calls(spans)]
    failed = rollout.status != "succeeded"
    return Outcome(
        place=place,
        rollout_id=rollout.rollout_id,
        status=rollout.status,
        reward=0.0 if reward is None or failed else reward,
        rewarded=reward is not None,
        input=rollout.input,
        error=_error(rollout) if failed else "",
        feedback=tuple(text for span in spans for text in _said(span)) if place.split == "train" else (),
        conversations=[dict(each) for each in adapter.adapt(spans)] if place.split == "train" else [],
        calls=len(calls),
        usage=_usage(calls),
    )


def _calls(spans: Sequence[Span]) -> list[Span]:
    """One span for each request to an LLM: the gateway's, also those that failed or made vectors, and what others saw
    answered. Further choices of an answer are no requests."""
    asked = [span for span in spans if LLM_CALL_NUMBER in span.attributes or answer_messages(span)]
    return [span for span in without_twins(asked) if not span.attributes.get(LLM_CALL_CHOICE)]


def _usage(calls: Sequence[Span]) -> dict[str, tuple[int, int]]:
    used: dict[str, tuple[int, int]] = {}
    for span in calls:
        model = str(span.attributes.get(GEN_AI_REQUEST_MODEL, ""))
        before = used.get(model, (0, 0))
        used[model] = (
            before[0] + _number(span, GEN_AI_USAGE_INPUT_TOKENS),
            before[1] + _number(span, GEN_AI_USAGE_OUTPUT_TOKENS),
        )
    return used


def _said(span: Span) -> list[str]:
    """Texts beside the reward: the judge's words."""
    found = [text for text in get_reward_labels(span).values() if text]
    if (message := get_message_value(span)) is not None:
        found.append(message)
    if EXCEPTION_TYPE in span.attributes:
        found.append(f"{span.attributes[EXCEPTION_TYPE]}: {span.attributes.get(EXCEPTION_MESSAGE, '')}")
    if span.name == AGL_ANNOTATION:
        # The reward's own attributes hold its names, and its labels once more.
        others = [(key, value) for key, value in sorted(span.attributes.items()) if not key.startswith(AGL_REWARD)]
        found += [f"{key}: {value}" for key, value in others if isinstance(value, str)]
    return found


def _error(rollout: Rollout) -> str:
    attempt = rollout.attempt if isinstance(rollout, AttemptedRollout) else None
    error: dict[str, Any] = ((attempt.metadata or {}).get("error") or {}) if attempt is not None else {}
    if error:
        return f"{error.get('type', 'Exception')}: {error.get('message', '')}"
    return f"the rollout was {rollout.status}" + (f", its attempt {attempt.status}" if attempt is not None else "")


def _number(span: Span, key: str) -> int:
    value = span.attributes.get(key, 0)
    return int(value) if isinstance(value, int | float) else 0
