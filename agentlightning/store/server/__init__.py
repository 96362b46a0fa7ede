"""The store's HTTP server: `server.LightningStoreServer` and what it is made of."""

from .server import LightningStoreServer

__all__ = ["LightningStoreServer"]
