"""Annotations: free-form attributes on the running attempt. `operation` is importable from here as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentlightning.semconv import AGL_ANNOTATION
from agentlightning.types import SpanCoreFields

from .operation import OperationContext, operation
from .span import emit_span

__all__ = ["OperationContext", "emit_annotation", "operation"]


def emit_annotation(annotation: Mapping[str, Any], propagate: bool = True) -> SpanCoreFields:
    """Record attributes in the running attempt; nested mappings become dotted keys.

    Raises:
        TypeError: `annotation` is not a mapping with string keys.
        RuntimeError: `propagate` and no attempt runs in this context.
    """
    if not isinstance(annotation, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # agents are untyped
        raise TypeError(f"`annotation` must be a mapping, not {type(annotation).__name__} ({annotation!r:.100})")
    return emit_span(AGL_ANNOTATION, annotation, propagate=propagate)
