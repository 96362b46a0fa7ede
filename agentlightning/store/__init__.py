"""The store: the queue, ledger and archive that algorithms and runners share. See `base.LightningStore`.

Light: all homes, server and client are imported when they are asked for; some need SQLAlchemy and web frameworks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from agentlightning.not_built import missing

from .base import UNSET, LightningStore, LightningStoreCapabilities, LightningStoreStatistics, Unset

if TYPE_CHECKING:
    from .client_server import LightningStoreClient, LightningStoreServer
    from .memory import InMemoryLightningStore
    from .sql import SqlLightningStore
    from .threading import LightningStoreThreaded

__all__ = [
    "UNSET",
    "InMemoryLightningStore",
    "LightningStore",
    "LightningStoreCapabilities",
    "LightningStoreClient",
    "LightningStoreServer",
    "LightningStoreStatistics",
    "LightningStoreThreaded",
    "SqlLightningStore",
    "Unset",
]

_LATER = {
    "InMemoryLightningStore": "memory",
    "LightningStoreClient": "client_server",
    "LightningStoreServer": "client_server",
    "LightningStoreThreaded": "threading",
    "SqlLightningStore": "sql",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise missing(__name__, name)
