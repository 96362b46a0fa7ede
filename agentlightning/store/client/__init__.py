"""The store over HTTP: `client.LightningStoreClient`, and `transport`, which sends its requests."""

from .client import LightningStoreClient

__all__ = ["LightningStoreClient"]
