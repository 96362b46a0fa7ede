"""Leaf names of `algorithm.*` as the estimators read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Settings(dict[str, Any]):
    """A mapping whose items are attributes too, as functions written for verl expect of `config`."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"the configuration has no `algorithm.{name}`; use `config.get({name!r}, default)`")


def number(config: Mapping[str, Any], name: str, default: float) -> float:
    """The setting, or the default where it is absent or null."""
    value = config.get(name)
    return default if value is None else float(value)


def flag(config: Mapping[str, Any], name: str, default: bool) -> bool:
    """The setting, or the default where it is absent or null."""
    value = config.get(name)
    return default if value is None else bool(value)
