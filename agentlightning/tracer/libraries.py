"""Libraries that make spans by themselves, through the ecosystem's own OpenTelemetry packages.

Called by `OtelTracer(instrument=...)`, and by programs through `agentlightning.instrumentation`. The packages are found
by their entry points (group `opentelemetry_instrumentor`), so whichever one a user has installed for a library is used;
the extra `instrument` installs those that are tested here. Their spans go to our provider, and so to the attempt that
the code runs in.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any, Final, NamedTuple

from opentelemetry import trace as otel

from agentlightning.types import ConfigError

from .provider import tracer_provider

__all__ = ["LIBRARIES", "hold", "instrument_all", "release", "uninstrument_all"]

logger = logging.getLogger(__name__)

GROUP: Final = "opentelemetry_instrumentor"


class Library(NamedTuple):
    """What can be instrumented."""

    distribution: str
    """The library itself; its import name would not do, `agents` may be a folder of the user's."""
    entry_point: str
    """Name of the instrumentation in its group."""
    package: str
    """Installs the instrumentation."""


LIBRARIES: Final = {
    "openai": Library("openai", "openai", "opentelemetry-instrumentation-openai"),
    "anthropic": Library("anthropic", "anthropic", "opentelemetry-instrumentation-anthropic"),
    "langchain": Library("langchain-core", "langchain", "opentelemetry-instrumentation-langchain"),
    "openai-agents": Library("openai-agents", "openai_agents", "opentelemetry-instrumentation-openai-agents"),
}
"""By name. `langchain` stands for LangGraph too."""
ALIASES: Final = {"langgraph": "langchain", "openai_agents": "openai-agents", "agents": "openai-agents"}

_PROGRAM = object()
"""The owner of what `instrument_all` instrumented."""
_lock = threading.RLock()
_owners: dict[str, list[object]] = {}
"""By library: who wants it instrumented."""
_switches: dict[str, _Switch] = {}
"""By library that was instrumented once. Instrumentations can't be relied on to undo what they did, and one that is
done twice doubles every span: so each is done once, and switched."""
_said: set[tuple[str, ...]] = set()
"""Packages whose lack was told."""


def instrument_all(libraries: Iterable[str] | None = None) -> list[str]:
    """Have libraries make spans of what they do, until `uninstrument_all`. Again and again does no harm.

    Args:
        libraries: Names of `LIBRARIES`, or `langgraph`; `None`: all of them that are installed.

    Returns:
        The libraries that are instrumented now. One that is not installed is left out; one that is, without its
        instrumentation, is left out with a warning that says what to install.

    Raises:
        ConfigError: a name is unknown.
    """
    return hold(_PROGRAM, libraries)


def uninstrument_all() -> None:
    """Libraries make no more spans, whoever asked for them. What was put into them stays and does nothing."""
    with _lock:
        for name in list(_owners):
            _stop(name)


def hold(owner: object, libraries: Iterable[str] | None = None) -> list[str]:
    """`instrument_all` for `owner`: what it holds stays until it, and every other owner, has called `release`."""
    with _lock:
        wanted, found, lacking = _wanted(libraries), list[str](), list[str]()
        for name in wanted:
            if name not in _owners and not _start(name, lacking):
                continue
            found.append(name)
            owners = _owners.setdefault(name, [])
            if not any(each is owner for each in owners):
                owners.append(owner)
        _tell(lacking)
        return found


def release(owner: object) -> None:
    """Undo what `hold` did for `owner`."""
    with _lock:
        for name, owners in list(_owners.items()):
            left = [each for each in owners if each is not owner]
            _owners[name] = left
            if not left:
                _stop(name)


# -- one library ----------------------------------------------------------------------------------------------------


def _wanted(libraries: Iterable[str] | None) -> list[str]:
    if libraries is None:
        return list(LIBRARIES)
    given = [libraries] if isinstance(libraries, str) else list(libraries)
    names = [ALIASES.get(name, name) for name in given]
    if unknown := [name for name in names if name not in LIBRARIES]:
        raise ConfigError(f"`libraries` has {unknown}; known are {', '.join([*LIBRARIES, 'langgraph'])}")
    return list(dict.fromkeys(names))


def _start(name: str, lacking: list[str]) -> bool:
    """Instrument a library; whether it is now."""
    library = LIBRARIES[name]
    if not _is_installed(library.distribution):
        return False
    point = next(iter(entry_points(group=GROUP, name=library.entry_point)), None)
    if point is None:
        lacking.append(library.package)
        return False
    try:
        return _instrument(name, point)
    except Exception as error:  # noqa: BLE001  # foreign code that patches foreign code; an agent runs without it too
        logger.warning("`%s` could not be instrumented by %s: %s: %s", name, point.value, type(error).__name__, error)
        return False


def _instrument(name: str, point: EntryPoint) -> bool:
    if name in _switches:
        _switches[name].on = True
        return True
    kind: Any = point.load()
    if kind.__new__(kind).is_instrumented_by_opentelemetry:  # there is only one, and `__init__` would change it
        logger.info("`%s` was instrumented by the program itself and stays as it is", name)
        return False
    instrumentor: Any = kind()
    switch = _Switch()
    instrumentor.instrument(tracer_provider=switch)
    if not instrumentor.is_instrumented_by_opentelemetry:
        return False  # the versions don't fit; OpenTelemetry has logged which
    _switches[name] = switch
    logging.getLogger("opentelemetry.attributes").addFilter(_not_left_out)
    return True


def _stop(name: str) -> None:
    del _owners[name]
    _switches[name].on = False


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _tell(packages: Sequence[str]) -> None:
    if packages and (said := tuple(packages)) not in _said:
        _said.add(said)
        logger.warning("libraries without instrumentation: `pip install %s` or leave them out", " ".join(packages))


def _not_left_out(record: logging.LogRecord) -> bool:
    """False for the warning about a parameter that is `openai.omit`, several for each call of some agents."""
    return "openai.Omit" not in record.getMessage()


class _Switch(otel.TracerProvider):
    """Our provider while it is on, and none while it is off."""

    def __init__(self) -> None:
        self.on = True

    def get_tracer(self, *args: Any, **kwargs: Any) -> otel.Tracer:
        return _SwitchedTracer(self, tracer_provider().get_tracer(*args, **kwargs))


class _SwitchedTracer(otel.Tracer):
    def __init__(self, switch: _Switch, tracer: otel.Tracer) -> None:
        self._switch = switch
        self._tracer = tracer
        self._none = otel.NoOpTracer()

    @property
    def _now(self) -> otel.Tracer:
        return self._tracer if self._switch.on else self._none

    def start_span(self, *args: Any, **kwargs: Any) -> otel.Span:
        return self._now.start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._now.start_as_current_span(*args, **kwargs)
