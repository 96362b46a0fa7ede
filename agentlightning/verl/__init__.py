"""Reinforcement learning with verl's configuration keys: config, the training loop, padded batches.

Importing this is light; torch comes with the loop.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import ResolvedConfig, VerlConfig, load_config
    from .daemon import AgentModeDaemon
    from .padding import get_left_padded_ids_and_attention_mask, get_right_padded_ids_and_attention_mask
    from .trainer import AgentLightningTrainer

_HOMES = {
    "AgentLightningTrainer": ".trainer",
    "AgentModeDaemon": ".daemon",
    "ResolvedConfig": ".config",
    "VerlConfig": ".config",
    "get_left_padded_ids_and_attention_mask": ".padding",
    "get_right_padded_ids_and_attention_mask": ".padding",
    "load_config": ".config",
}

__all__ = [
    "AgentLightningTrainer",
    "AgentModeDaemon",
    "ResolvedConfig",
    "VerlConfig",
    "get_left_padded_ids_and_attention_mask",
    "get_right_padded_ids_and_attention_mask",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
