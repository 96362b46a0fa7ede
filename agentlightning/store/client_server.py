"""The store over HTTP, at the import path of Agent-Lightning 0.3. See `server` and `client`."""

from .client import LightningStoreClient
from .server import LightningStoreServer

__all__ = ["LightningStoreClient", "LightningStoreServer"]
