"""Makes each component of a `Trainer` of what it was given, see `components`. Called by `trainer`."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning.algorithm.base import Algorithm
from agentlightning.env_var import LightningEnvVar
from agentlightning.execution.base import ExecutionStrategy
from agentlightning.runner import Runner
from agentlightning.store.base import LightningStore
from agentlightning.tracer import Tracer
from agentlightning.types import ConfigError, Hook

from .components import ComponentSpec, build_component
from .registry import ExecutionStrategyRegistry

if TYPE_CHECKING:
    from agentlightning.adapter.base import TraceAdapter
    from agentlightning.llm_proxy import LLMProxy

logger = logging.getLogger(__name__)

T = TypeVar("T")
NO_ALGORITHM = "decorate the function with `@agl.algo`, or subclass `agl.Algorithm`"


def make_algorithm(spec: ComponentSpec[Algorithm]) -> Algorithm | None:
    """Raises `ConfigError` that says how a function becomes an algorithm."""
    try:
        return build_component(
            spec,
            expected_type=Algorithm,
            spec_name="algorithm",
            allow_none=True,
            type_error_fmt="it is a {type_name}",
            invalid_spec_error_fmt=f"`algorithm` is a {{actual_type}}; {NO_ALGORITHM}",
        )
    except TypeError as error:  # most likely a plain function, which was called to make an algorithm
        raise ConfigError(f"`algorithm` can't be used: {error}; {NO_ALGORITHM}") from error


def make_strategy(spec: ComponentSpec[ExecutionStrategy], n_runners: int | None, port: int | None) -> ExecutionStrategy:
    """By default in this process; runner processes where a role or a port says that there are some."""
    if spec is None:
        spec = "cs" if port is not None or LightningEnvVar.AGL_CURRENT_ROLE in os.environ else "shm"
    defaults: dict[str, Any] = {"n_runners": n_runners or 1}
    if port is not None:
        defaults["server_port"] = port
    made = build_component(
        spec,
        expected_type=ExecutionStrategy,
        spec_name="strategy",
        optional_defaults=defaults,
        registry=ExecutionStrategyRegistry,
    )
    assert made is not None
    if n_runners is not None and made.n_runners != n_runners:
        logger.warning("`n_runners` is %d and that of `strategy` is %d, which is taken", n_runners, made.n_runners)
    if port is not None:
        if hasattr(made, "server_port"):
            made.server_port = port  # pyright: ignore[reportAttributeAccessIssue]
        else:
            logger.warning("`port` is for a strategy that serves the store; a `%s` does not", type(made).__name__)
    return made


def make_store(spec: ComponentSpec[LightningStore]) -> LightningStore | None:
    """`None`: `fit` and `dev` choose. A text may be an address, a database or a file as well."""
    if isinstance(spec, str):
        if spec.startswith(("http://", "https://")):
            from agentlightning.store.client_server import LightningStoreClient

            return LightningStoreClient(spec)
        if "://" in spec or spec.endswith((".sqlite", ".db")) or os.sep in spec:
            from agentlightning.store.sql import SqlLightningStore

            return SqlLightningStore(spec)
    return build_component(spec, expected_type=LightningStore, spec_name="store", allow_none=True)


def make_hooks(hooks: Hook | Sequence[Hook] | None) -> tuple[Hook, ...]:
    """Raises `ConfigError` for what is no hook."""
    found: tuple[Any, ...] = () if hooks is None else tuple(hooks) if isinstance(hooks, Sequence) else (hooks,)
    for hook in found:
        if not isinstance(hook, Hook):
            raise ConfigError(f"`hooks` holds a {type(hook).__name__}; give objects of subclasses of `agl.Hook`")
    return found


def otel_tracer() -> Tracer:
    """The default tracer."""
    from agentlightning.tracer.otel import OtelTracer

    return OtelTracer()


def make_runner(
    spec: ComponentSpec[Runner[Any]], tracer: Tracer | None, max_rollouts: int | None, max_concurrency: int
) -> Runner[Any] | None:
    """`None`: the bundle makes one. Raises `ConfigError` for a setting that a ready-made runner does not have."""
    if isinstance(spec, Runner):
        given = {"max_rollouts": max_rollouts, "max_concurrency": max_concurrency if max_concurrency > 1 else None}
        for name, value in given.items():
            found = getattr(spec, name, None)
            if value is not None and found != value:
                raise ConfigError(
                    f"`{name}` is {value} and that of `runner` is {found}; give it to the runner alone, or give "
                    "`runner` as a class"
                )
    return build_component(
        spec,
        expected_type=Runner,
        spec_name="runner",
        allow_none=True,
        optional_defaults={
            "tracer": lambda: tracer,
            "max_rollouts": max_rollouts,
            "max_concurrency": max_concurrency,
        },
    )


def make_adapter(spec: ComponentSpec[TraceAdapter[Any]]) -> TraceAdapter[Any] | None:
    """`None`: the algorithm chooses."""
    if spec is None:
        return None
    from agentlightning.adapter import TracerTraceToTriplet
    from agentlightning.adapter.base import TraceAdapter

    return build_component(
        spec,
        expected_type=TraceAdapter,
        spec_name="adapter",
        dict_requires_type=False,
        dict_default_cls=TracerTraceToTriplet,
    )


def make_llm_proxy(spec: ComponentSpec[LLMProxy], store: LightningStore | None) -> LLMProxy | None:
    """`None`: algorithms that need a gateway make their own."""
    if spec is None:
        return None
    from agentlightning.llm_proxy import LLMProxy

    return build_component(
        spec,
        expected_type=LLMProxy,
        spec_name="llm_proxy",
        dict_requires_type=False,
        dict_default_cls=LLMProxy,
        optional_defaults={"store": store},
    )


def deprecated(old: str, new: str) -> None:
    """Warn the caller of `Trainer(...)`."""
    warnings.warn(f"`Trainer({old}=...)` is deprecated: use {new}", DeprecationWarning, stacklevel=4)


def renamed(old: str, old_value: T | None, new: str, value: T | None) -> T | None:
    """The value of an argument that had another name, with a warning if the old name was used."""
    if old_value is None:
        return value
    deprecated(old, f"`{new}`")
    return value if value is not None else old_value
