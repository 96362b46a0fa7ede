"""What an adapter is: a view of recorded spans, made for an algorithm. Names follow Agent-Lightning 0.3."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from agentlightning.types import Span

T_from = TypeVar("T_from")
T_to = TypeVar("T_to")


class Adapter(ABC, Generic[T_from, T_to]):
    """Turns one kind of data into another. Calling the object is `adapt`."""

    def __call__(self, source: T_from, /) -> T_to:
        """`adapt(source)`."""
        return self.adapt(source)

    @abstractmethod
    def adapt(self, source: T_from, /) -> T_to:
        """The view of `source`."""


class TraceAdapter(Adapter[Sequence[Span], T_to], Generic[T_to]):
    """An adapter of spans, as the store returns them."""


class OtelTraceAdapter(Adapter[Sequence[Any], T_to], Generic[T_to]):
    """An adapter of OpenTelemetry's own spans (`ReadableSpan`)."""
