"""The store: the queue, ledger and archive that algorithms and runners share. See `base.LightningStore`.

Light: the SQL home, which needs SQLAlchemy, is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import UNSET, LightningStore, Unset
from .memory import InMemoryLightningStore

if TYPE_CHECKING:
    from .sql import SqlLightningStore

__all__ = ["UNSET", "InMemoryLightningStore", "LightningStore", "SqlLightningStore", "Unset"]


def __getattr__(name: str) -> Any:
    if name == "SqlLightningStore":
        from .sql import SqlLightningStore

        return SqlLightningStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
