"""Rewards: how an agent gives one, and how algorithms and adapters read it from spans.

A reward has one or more named dimensions; dimension 0 is the primary one, the number that training uses.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from agentlightning.semconv import (
    AGL_REWARD,
    RewardPydanticModel,
    reward_label_key,
    reward_name_key,
    reward_value_key,
)
from agentlightning.types import RewardError, SpanCoreFields, SpanLike

from .span import emit_span

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=SpanLike)

LARGEST = float(np.finfo(np.float32).max)
"""Largest size of a reward: training computes in float32."""
PRIMARY = "primary"
"""Name of the only dimension of a reward that was given as one number."""


def emit_reward(
    reward: float | Mapping[str, float],
    *,
    primary_key: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    propagate: bool = True,
) -> SpanCoreFields:
    """Give the running attempt a reward.

    Args:
        reward: A number, or numbers by dimension.
        primary_key: Which dimension is the primary one; needed with a mapping.
        attributes: More attributes for the span.
        propagate: False only returns the span, for an agent that returns its spans itself.

    Raises:
        TypeError: a value is not a number.
        RewardError: a value is NaN, infinite or too large for float32.
        ValueError: `primary_key` is missing or unknown.
        RuntimeError: `propagate` and no attempt runs in this context.
    """
    given = dict(attributes or {})
    return emit_span(AGL_REWARD, {**given, **reward_attributes(reward, primary_key)}, propagate=propagate)


def reward_attributes(reward: float | Mapping[str, float], primary_key: str | None = None) -> dict[str, Any]:
    """The attributes of a reward span, the primary dimension first. Raises as `emit_reward` does."""
    dimensions = _dimensions(reward, primary_key)
    found: dict[str, Any] = {}
    for index, (name, value) in enumerate(dimensions):
        found[reward_name_key(index)] = name
        found[reward_value_key(index)] = value
    return found


def reward_number(value: Any, name: str = "reward") -> float:
    """`value` as a float that is finite in float32, too.

    Raises:
        TypeError: it is not a number.
        RewardError: it is NaN, infinite or too large for float32.
    """
    if not isinstance(value, (numbers.Real, np.bool_)):
        raise TypeError(f"`{name}` must be a number, not {type(value).__name__} ({value!r:.100})")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RewardError(f"`{name}` must be a finite number, not {value!r:.100}")
    if abs(number) > LARGEST:
        raise RewardError(f"`{name}` must be a finite number of at most {LARGEST:.1e} in size, not {value!r:.100}")
    return number


def reward(fn: Callable[P, R]) -> Callable[P, R]:
    """Emit what a function returns as the reward. Deprecated since 0.3: call `emit_reward` on the result."""
    warnings.warn("`@reward` is deprecated; call `emit_reward` on the function's result", DeprecationWarning, 2)

    @functools.wraps(fn)
    async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
        result = await cast(Any, fn(*args, **kwargs))
        emit_reward(result)
        return result

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        result = fn(*args, **kwargs)
        emit_reward(cast(Any, result))
        return result

    return cast("Callable[P, R]", call_async) if inspect.iscoroutinefunction(fn) else call


def get_rewards_from_span(span: SpanLike) -> list[RewardPydanticModel]:
    """All dimensions of a reward span, the primary one first; empty if it is none."""
    found: list[RewardPydanticModel] = []
    while (value := _read(span, len(found))) is not None:
        name = (span.attributes or {}).get(reward_name_key(len(found)), PRIMARY if not found else str(len(found)))
        found.append(RewardPydanticModel(name=str(name), value=value))
    return found


def get_reward_labels(span: SpanLike) -> dict[str, str]:
    """The texts that belong to a reward (attributes named by `semconv.reward_label_key`), by name."""
    start = reward_label_key("")
    attributes = span.attributes or {}
    return {key.removeprefix(start): str(value) for key, value in attributes.items() if key.startswith(start)}


def get_reward_value(span: SpanLike) -> float | None:
    """The primary reward of a span, or `None` if it is no reward span.

    Spans may come from foreign programs: what is no number that float32 holds does not count as a reward.
    """
    return _read(span, 0)


def is_reward_span(span: SpanLike) -> bool:
    """Whether `span` gives a reward."""
    return get_reward_value(span) is not None


def find_reward_spans(spans: Sequence[S]) -> list[S]:
    """Those of `spans` that give a reward, in the given order."""
    return [span for span in spans if is_reward_span(span)]


def find_final_reward(spans: Sequence[S]) -> float | None:
    """The primary reward of the last reward span of `spans`, which are in order of `sequence_id`; `None` if none."""
    for span in reversed(spans):
        if is_reward_span(span):
            return get_reward_value(span)
    return None


def _read(span: SpanLike, index: int) -> float | None:
    value = (span.attributes or {}).get(reward_value_key(index))
    return float(value) if isinstance(value, (bool, int, float)) and abs(value) <= LARGEST else None


def _dimensions(reward: Any, primary_key: str | None) -> list[tuple[str, float]]:
    if not isinstance(reward, Mapping):
        if primary_key is not None:
            raise ValueError(f"`primary_key` {primary_key!r} is for a reward given as a mapping, not {reward!r:.100}")
        return [(PRIMARY, reward_number(reward))]
    if primary_key is None or primary_key not in reward:
        names = ", ".join(repr(str(name)) for name in reward)  # pyright: ignore[reportUnknownArgumentType]
        raise ValueError(f"`primary_key` must be one of the reward's dimensions ({names}), not {primary_key!r}")
    values: dict[str, float] = {str(k): reward_number(v, f"reward[{k!r}]") for k, v in reward.items()}
    return [(primary_key, values.pop(primary_key)), *values.items()]
