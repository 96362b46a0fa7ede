"""Reinforcement learning with verl's configuration keys: config and the training loop.

Importing this is light; torch comes with the loop.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import ResolvedConfig, VerlConfig, load_config

_HOMES = {"ResolvedConfig": ".config", "VerlConfig": ".config", "load_config": ".config"}

__all__ = ["ResolvedConfig", "VerlConfig", "load_config"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
