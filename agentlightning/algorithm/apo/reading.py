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
)
from agentlightning.types import AttemptedRollout, Rollout, Span

from .outcome import Outcome, Place


def outcome_of(rollout: Rollout, place: Place, spans: Sequence[Span], adapter: TraceToMessages) -> Outcome:
    """What became of a finished rollout.

    Args:
        rollout: As the store gave it.
        place: Which task it was.
        spans: Of its latest attempt.
        adapter: Reads the messages; only train rollouts are read, since no critic sees others.
    """
    reward = find_final_reward(list(spans))
    calls = without_twins([span for span in spans if answer_messages(span)])
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
        input_tokens=sum(_number(span, GEN_AI_USAGE_INPUT_TOKENS) for span in calls),
        output_tokens=sum(_number(span, GEN_AI_USAGE_OUTPUT_TOKENS) for span in calls),
        model=str(calls[-1].attributes.get(GEN_AI_REQUEST_MODEL, "")) if calls else "",
    )


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
