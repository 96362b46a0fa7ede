"""Handlers of resources, workers and statistics. Called by `api` through `routes`."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from agentlightning.types import NamedResources, NotFoundError, ResourcesUpdate, Worker

from ..base import LightningStore
from ..codec import encode
from ..wire import Page, dump_page, dump_resources, dump_worker, parse
from . import bodies
from .call import Call, Route

_RESOURCES: TypeAdapter[NamedResources] = TypeAdapter(NamedResources)


async def add_resources(store: LightningStore, call: Call) -> bytes:
    return dump_resources(await store.add_resources(parse(_RESOURCES, call.body)))


async def update_resources(store: LightningStore, call: Call) -> bytes:
    return dump_resources(await store.update_resources(call.params[0], parse(_RESOURCES, call.body)))


async def get_resources(store: LightningStore, call: Call) -> bytes:
    found = await store.get_resources_by_id(call.params[0])
    if found is None:
        raise NotFoundError(f"`resources_id` {call.params[0]!r} is not in the store")
    return dump_resources(found)


async def get_latest_resources(store: LightningStore, call: Call) -> bytes:
    found = await store.get_latest_resources()
    if found is None:
        raise NotFoundError("there are no resources yet; add some")
    return dump_resources(found)


async def _query_resources(store: LightningStore, query: bodies.QueryResources) -> bytes:
    return dump_page(await store.query_resources(**query.__dict__), dump_resources)


async def query_resources(store: LightningStore, call: Call) -> bytes:
    return await _query_resources(store, call.read_query(bodies.QueryResources))


async def search_resources(store: LightningStore, call: Call) -> bytes:
    return await _query_resources(store, call.read(bodies.QueryResources))


async def _query_workers(store: LightningStore, query: bodies.QueryWorkers) -> bytes:
    return dump_page(await store.query_workers(**query.__dict__), dump_worker)


async def query_workers(store: LightningStore, call: Call) -> bytes:
    return await _query_workers(store, call.read_query(bodies.QueryWorkers))


async def search_workers(store: LightningStore, call: Call) -> bytes:
    return await _query_workers(store, call.read(bodies.QueryWorkers))


async def get_worker(store: LightningStore, call: Call) -> bytes:
    found = await store.get_worker_by_id(call.params[0])
    if found is None:
        raise NotFoundError(f"`worker_id` {call.params[0]!r} is not in the store")
    return dump_worker(found)


async def update_worker(store: LightningStore, call: Call) -> bytes:
    changes = call.read(bodies.UpdateWorker).given("heartbeat_stats")
    return dump_worker(await store.update_worker(call.params[0], **changes))


async def statistics(store: LightningStore, call: Call) -> bytes:
    return encode("statistics", await store.statistics()).encode()


def routes(prefix: str) -> list[Route]:
    """The table of these handlers."""
    resources, workers = f"{prefix}/resources", f"{prefix}/workers"
    worker_page = Page[Worker]
    return [
        Route("GET", resources, "query_resources", query_resources, query=bodies.QueryResources,
              answer=Page[ResourcesUpdate]),
        Route("POST", f"{resources}/search", "search_resources", search_resources, bodies.QueryResources,
              answer=Page[ResourcesUpdate]),
        Route("POST", resources, "add_resources", add_resources, NamedResources, answer=ResourcesUpdate, status=201),
        Route("GET", f"{resources}/latest", "get_latest_resources", get_latest_resources, answer=ResourcesUpdate),
        Route("GET", f"{resources}/{{resources_id}}", "get_resources_by_id", get_resources, answer=ResourcesUpdate),
        Route("POST", f"{resources}/{{resources_id}}", "update_resources", update_resources, NamedResources,
              answer=ResourcesUpdate),
        Route("GET", workers, "query_workers", query_workers, query=bodies.QueryWorkers, answer=worker_page),
        Route("POST", f"{workers}/search", "search_workers", search_workers, bodies.QueryWorkers, answer=worker_page),
        Route("GET", f"{workers}/{{worker_id}}", "get_worker_by_id", get_worker, answer=Worker),
        Route("POST", f"{workers}/{{worker_id}}", "update_worker", update_worker, bodies.UpdateWorker, answer=Worker),
        Route("GET", f"{prefix}/statistics", "statistics", statistics, answer=dict[str, Any]),
    ]  # fmt: skip
