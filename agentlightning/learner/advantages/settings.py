"""Leaf names of `algorithm.*` as the estimators read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(config: Mapping[str, Any], name: str, default: float) -> float:
    """The setting, or the default where it is absent or null."""
    value = config.get(name)
    return default if value is None else float(value)


def flag(config: Mapping[str, Any], name: str, default: bool) -> bool:
    """The setting, or the default where it is absent or null."""
    value = config.get(name)
    return default if value is None else bool(value)
