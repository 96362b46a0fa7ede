"""`operation`: a span around a piece of an agent's work, with what went in and what came out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast, overload

from agentlightning.semconv import AGL_OPERATION, LightningSpanAttributes
from agentlightning.tracer import DummyTracer
from agentlightning.types import SpanCoreFields, SpanRecordingContext

from .span import need_tracer

P = ParamSpec("P")
R = TypeVar("R")

_NAME = LightningSpanAttributes.OPERATION_NAME.value
_INPUT = LightningSpanAttributes.OPERATION_INPUT.value
_OUTPUT = LightningSpanAttributes.OPERATION_OUTPUT.value


class OperationContext:
    """One operation, or a decorator that makes each call of a function one. Made by `operation`.

    Args:
        name: Name of the span.
        attributes: Of the span; nested mappings are flattened to dotted keys.
        propagate: Whether the span is recorded in the running attempt; else it is only at `span()`.
    """

    def __init__(self, name: str, attributes: Mapping[str, Any], propagate: bool = True) -> None:
        self.name = name
        self.attributes = dict(attributes)
        self.propagate = propagate
        self._recording: SpanRecordingContext | None = None
        self._manager: AbstractContextManager[SpanRecordingContext] | None = None

    def __enter__(self) -> Self:
        if self._recording is not None:
            raise RuntimeError("an operation is entered once; call `operation(...)` again for the next one")
        tracer = need_tracer(self.name) if self.propagate else DummyTracer()
        self._manager = tracer.operation_context(self.name, self.attributes)
        self._recording = self._manager.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._manager is not None
        return self._manager.__exit__(kind, error, trace)

    def set_input(self, *args: Any, **kwargs: Any) -> None:
        """What went in: positional values as `...input.args.0`, named ones as `...input.<name>`.

        Raises:
            RuntimeError: the operation has not begun.
        """
        given = {"args": _numbered(args), **kwargs} if args else kwargs
        self._under_way().record_attributes({_INPUT: given})

    def set_output(self, output: Any) -> None:
        """What came out: a scalar as `...output`, parts of lists and mappings below it.

        Raises:
            RuntimeError: the operation has not begun.
        """
        self._under_way().record_attributes({_OUTPUT: output})

    def span(self) -> SpanCoreFields:
        """The span, once the operation has ended.

        Raises:
            RuntimeError: it has not.
        """
        span = None if self._recording is None else self._recording.get_recorded_span()
        if span is None or span.end_time is None:
            raise RuntimeError("the operation has not ended: call `span()` after the `with` block")
        return span

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """`fn` with an operation around each call."""
        attributes = {_NAME: getattr(fn, "__name__", repr(fn)), **self.attributes}
        signature = inspect.signature(fn)

        def begin() -> OperationContext:
            return OperationContext(self.name, attributes, self.propagate)

        @functools.wraps(fn)
        async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            with begin() as running:
                running.set_input(**_arguments(signature, args, kwargs))
                result = await cast(Any, fn(*args, **kwargs))
                running.set_output(result)
                return result

        @functools.wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with begin() as running:
                running.set_input(**_arguments(signature, args, kwargs))
                result = fn(*args, **kwargs)
                running.set_output(result)
                return result

        return cast("Callable[P, R]", call_async) if inspect.iscoroutinefunction(fn) else call

    def _under_way(self) -> SpanRecordingContext:
        if self._recording is None:
            raise RuntimeError("the operation has not begun: use it as `with operation(...) as op:`")
        return self._recording


def _arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return {}  # the call itself raises it in a moment, with the better text
    bound.apply_defaults()
    found = {name: value for name, value in bound.arguments.items() if name not in ("self", "cls")}
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            found[name] = _numbered(found[name])
    return found


def _numbered(values: tuple[Any, ...]) -> dict[str, Any]:
    return {str(index): value for index, value in enumerate(values)}


@overload
def operation(
    fn: Callable[P, R], *, propagate: bool = True, name: str | None = None, **additional_attributes: Any
) -> Callable[P, R]: ...
@overload
def operation(
    fn: None = None, *, propagate: bool = True, name: str | None = None, **additional_attributes: Any
) -> OperationContext: ...
def operation(
    fn: Callable[..., Any] | None = None,
    *,
    propagate: bool = True,
    name: str | None = None,
    **additional_attributes: Any,
) -> Any:
    """A span around a function (`@operation`, `@operation(name=...)`) or a block (`with operation(...) as op`).

    A decorated function's arguments and result are recorded; in a block `op.set_input` and `op.set_output` do that. An
    exception is recorded and goes on.

    Args:
        fn: The function, where it decorates without arguments.
        propagate: False records nothing in the attempt; a block has the span at `op.span()`.
        name: What the operation is called; the function's name if not given.
        additional_attributes: Of the span.

    Raises:
        RuntimeError: as the operation begins: `propagate` and no attempt runs in this context.
    """
    attributes = additional_attributes if name is None else {**additional_attributes, _NAME: name}
    context = OperationContext(AGL_OPERATION, attributes, propagate)
    return context if fn is None else context(fn)
