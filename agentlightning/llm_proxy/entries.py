"""Reads the entries of a model list, which are written as LiteLLM's are. Used by `routes`.

What an entry says of the endpoint becomes a `Connection`, from which `providers.connect` makes the backend.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict, cast, get_args

import orjson

from agentlightning.types import ConfigError

from .backend import Dialect
from .ledger import Prices
from .limits import Limits
from .providers import OPTIONS, Provider, default_endpoint, provider_of

_ENTRY = ("model_name", "litellm_params", "model_info")
_TEXTS = ("model", "api_base", "api_key")
_PRICES = ("input_cost_per_token", "output_cost_per_token")
_PARAMS = (*_TEXTS, "timeout", *_PRICES, "rpm", "max_parallel_requests", "weight")
_FLAGS = ("tempered_logprobs", "exact_streams")
_FROM_ENVIRONMENT = "os.environ/"
_TIMEOUT_S = 600.0


class ModelConfig(TypedDict):
    """An entry as it is written, for those who check types; docs/gateway.md lists the keys."""

    model_name: str
    litellm_params: dict[str, Any]
    model_info: NotRequired[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Connection:
    """What a backend is made from. Entries with the same one share it. Its `repr` shows no secrets."""

    provider: Provider
    model: str
    """Its name at the endpoint."""
    base_url: str | None = field(repr=False)
    """May hold a password."""
    api_key: str | None = field(repr=False)
    timeout: float
    options_json: bytes = field(repr=False)
    copy: int = 0
    """Tells several like it apart in one model."""

    @property
    def options(self) -> dict[str, Any]:
        """What else the backend is made with."""
        return orjson.loads(self.options_json)

    @property
    def identity(self) -> str:
        """Stands for the endpoint where rollouts are assigned: without what may change while its cache stays."""
        return f"{self.provider} {self.base_url} {self.model} {self.copy}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a model list."""

    model_name: str
    connection: Connection
    weight: float
    limits: Limits
    prices: Prices
    model_info: Mapping[str, Any]


def read_entry(entry: Any, where: str) -> Entry:
    """Check and read one entry.

    Args:
        entry: As the user wrote it.
        where: How messages name it, as in `model_list[0]`. They never show a value that may be secret.

    Raises:
        ConfigError: it can't be used.
    """
    params: Any = entry.get("litellm_params") if isinstance(entry, Mapping) else None
    if not isinstance(params, Mapping) or not isinstance(entry.get("model_name"), str):
        found = sorted(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise ConfigError(f"`{where}` must have a `model_name` and `litellm_params`; it is or has {found}")
    _refuse_unknown(entry, _ENTRY, where)
    info: Any = entry.get("model_info") or {}
    if not isinstance(info, Mapping):
        raise ConfigError(f"`{where}.model_info` must be a mapping, not {type(info).__name__}")
    values = _Params({name: info[name] for name in _PRICES if name in info} | dict(params), f"{where}.litellm_params")
    return Entry(
        model_name=entry["model_name"],
        connection=_connection(values),
        weight=values.number("weight", 1.0, positive=True),
        limits=values.limits(),
        prices=Prices(*(values.number(name, 0.0) for name in _PRICES)),
        model_info=dict(info),
    )


def _connection(params: _Params) -> Connection:
    model = params.text("model")
    if model is None:
        raise params.wrong("model", "a string: the name at the endpoint, with LiteLLM's prefix")
    prefix, provider, name = provider_of(model)
    params.refuse_unknown((*_PARAMS, *sorted(OPTIONS[provider])))
    base_url, api_key = params.text("api_base"), params.text("api_key")
    if base_url is None and (default := default_endpoint(prefix)) is not None:
        base_url, variable = default
        api_key = api_key or os.environ.get(variable)
    if base_url is None and provider != "litellm":
        raise params.wrong("api_base", "a string: the endpoint's URL, usually ending in `/v1`")
    return Connection(
        provider=provider,
        model=name,
        base_url=base_url and base_url.rstrip("/"),
        api_key=api_key,
        timeout=params.number("timeout", _TIMEOUT_S, positive=True),
        options_json=params.options(OPTIONS[provider]),
    )


class _Params:
    """The `litellm_params` of one entry, checked as they are asked for."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def refuse_unknown(self, known: Sequence[str]) -> None:
        """Refuse keys that would have no effect."""
        _refuse_unknown(self._values, known, self._where)

    def wrong(self, name: str, expected: str) -> ConfigError:
        """The error for a value that is not what it should be."""
        value = self._values.get(name)
        shown = f"a {type(value).__name__}" if name == "api_key" else repr(value)
        return ConfigError(f"`{self._where}.{name}` must be {expected}, not {shown:.100}")

    def text(self, name: str) -> str | None:
        """A string, or `None` if it is not given; `os.environ/NAME` is read from the environment."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        if not value.startswith(_FROM_ENVIRONMENT):
            return value
        variable = value.removeprefix(_FROM_ENVIRONMENT)
        if variable not in os.environ:
            raise ConfigError(f"`{self._where}.{name}` is {value!r}, but there is no such variable; set `{variable}`")
        return os.environ[variable]

    def number(self, name: str, default: Any, *, positive: bool = False) -> float:
        """A number of at least 0, or above it."""
        value = self._values.get(name)
        value = default if value is None else value
        if type(value) not in (int, float) or not math.isfinite(value) or value < 0 or (positive and value == 0):
            raise self.wrong(name, "a number above 0" if positive else "a number, 0 or above")
        return float(value)

    def limits(self) -> Limits:
        """`rpm` and `max_parallel_requests`."""
        try:
            return Limits(self._values.get("max_parallel_requests"), self._values.get("rpm"))
        except ConfigError as error:
            raise ConfigError(f"`{self._where}`: {error}") from error

    def options(self, names: Collection[str]) -> bytes:
        """Those of `names` that are given, as JSON; strings may stand in the environment."""
        found = {name: self._option(name) for name in sorted(self._values) if name in names}
        try:
            return orjson.dumps({name: value for name, value in found.items() if value is not None})
        except TypeError as error:
            raise ConfigError(f"`{self._where}`: {sorted(found)} must be plain JSON values: {error}") from error

    def _option(self, name: str) -> Any:
        value = self._values[name]
        if name in _FLAGS and not isinstance(value, bool | None):
            raise self.wrong(name, "true or false")
        if name == "speaks" and value is not None:
            return self._dialects(value)
        return self.text(name) if isinstance(value, str) else value

    def _dialects(self, value: Any) -> list[Dialect]:
        known = get_args(Dialect)
        if not isinstance(value, list | tuple | set | frozenset) or not value or any(one not in known for one in value):
            raise self.wrong("speaks", f"a list of some of {', '.join(known)}")
        return sorted(cast("Iterable[Dialect]", value))


def _refuse_unknown(given: Iterable[Any], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"`{where}` has the unknown key `{name}`; {hint}")
