"""What an agent returned, as spans; and what it failed with, as data."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from agentlightning.emitter import exception_attributes, reward_attributes
from agentlightning.semconv import (
    AGL_EXCEPTION,
    AGL_REWARD,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
    attempt_trace_id,
)
from agentlightning.types import AttemptedRollout, RewardError, Span, SpanCoreFields, TraceStatus

logger = logging.getLogger(__name__)

ALLOWED = "an agent returns a finite number (its reward), a list of spans, or `None` if it emitted its reward"


def result_spans(result: Any, rollout: AttemptedRollout) -> list[Span]:
    """The spans that the return value of an agent stands for.

    Args:
        result: `None`, a number, or a sequence of `Span`, `SpanCoreFields` or OpenTelemetry's `ReadableSpan`.
        rollout: The attempt that the spans belong to, whatever ids they carry.

    Raises:
        TypeError: it is something else.
        RewardError: it is NaN or infinite.
    """
    if result is None:
        return []
    if isinstance(result, (numbers.Real, np.bool_)):
        return [_span(AGL_REWARD, _reward(result), rollout)]
    if isinstance(result, (list, tuple)):
        items = cast("Sequence[Any]", result)
        if not items:
            logger.warning("rollout %s: the agent returned an empty list of spans", rollout.rollout_id)
        return [_owned(item, rollout) for item in items]
    raise TypeError(f"the agent returned {_shown(result)}; {ALLOWED}")


def exception_span(error: BaseException, rollout: AttemptedRollout) -> Span:
    """A span that says what an attempt failed with."""
    status = TraceStatus(status_code="ERROR", description=str(error))
    return _span(AGL_EXCEPTION, exception_attributes(error), rollout, status=status)


def error_metadata(error: BaseException) -> dict[str, str]:
    """Type, message and traceback, as an attempt's `metadata["error"]` holds them."""
    found = exception_attributes(error)
    return {
        "type": found[EXCEPTION_TYPE],
        "message": found[EXCEPTION_MESSAGE],
        "traceback": found[EXCEPTION_STACKTRACE],
    }


def _reward(result: Any) -> dict[str, Any]:
    try:
        return reward_attributes(result)
    except RewardError as error:
        raise RewardError(f"the agent returned {_shown(result)}; {ALLOWED}") from error


def _owned(item: Any, rollout: AttemptedRollout) -> Span:
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    if isinstance(item, Span):
        return item.model_copy(update=ids)
    if isinstance(item, SpanCoreFields):
        times = {"start_time": item.start_time, "end_time": item.end_time}
        return _span(item.name, item.attributes, rollout, **times, status=item.status)
    if type(item).__module__.startswith("opentelemetry."):
        from agentlightning.tracer.otel import from_otel  # loaded already if there is such a span

        return from_otel(item, rollout.rollout_id, rollout.attempt.attempt_id)
    raise TypeError(f"the agent returned a list with {_shown(item)}; {ALLOWED}")


def _span(name: str, attributes: Any, rollout: AttemptedRollout, **fields: Any) -> Span:
    rollout_id, attempt_id = rollout.rollout_id, rollout.attempt.attempt_id
    return Span.create(
        name,
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        trace_id=attempt_trace_id(rollout_id, attempt_id),
        attributes=attributes,
        **fields,
    )


def _shown(value: Any) -> str:
    return f"{type(value).__name__} ({value!r:.100})"
