"""`LightningStoreClient`: the store behind an HTTP server, with the methods of any other home.

Used by runners and algorithms in other processes than the store's. `transport` sends the requests; `wire` reads and
writes what is in them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import orjson
from pydantic import TypeAdapter

from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    ConfigError,
    EnqueueRolloutRequest,
    NamedResources,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    StoreUnavailableError,
    TaskInput,
    Worker,
)

from .. import wire
from ..base import (
    UNSET,
    FilterLogic,
    LightningStore,
    LightningStoreCapabilities,
    LightningStoreStatistics,
    SortOrder,
    Unset,
)
from ..replies import request_key
from ..rows import encode_resources
from .batching import Request
from .errors import raise_refusal, refusal
from .transport import Transport

logger = logging.getLogger(__name__)

API = "/v1/agl"
TOKEN_VARIABLE = "AGL_STORE_TOKEN"
RETRY_DELAYS = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 5.0, 7.0, 10.0, 10.0, 10.0, 12.0)
"""About a minute in all: as long as a server may take to come back."""
RELEASE_SECONDS = 5.0
"""How long a cancelled dequeue waits for the server to take back what it gave."""
LONGEST_POLL = 25.0
"""Longest wait in one request, in seconds: proxies cut what stays silent for 30."""


class LightningStoreClient(LightningStore):
    """A store that `LightningStoreServer` or `agl store` serves.

    Requests that find no server, or a busy one, are repeated with the same idempotency key: nothing is done twice.

    Args:
        server_address: `http://host:port`.
        token: What the server asks for; by default `AGL_STORE_TOKEN`.
        retry_delays: Seconds to sleep before each repetition of a request.
        health_retry_delays: Taken as in Agent-Lightning 0.3, not used: a repeated request is its own probe.
        request_timeout: Longest time of one HTTP request, in seconds. Longer waits are several requests.
        connection_timeout: Longest time to connect, in seconds.

    Every method may raise `StoreUnavailableError` once its repetitions are used up, `ConfigError` where the token is
    wrong, and `RuntimeError` where the server failed or is no store.

    Raises:
        ConfigError: `server_address` is no such address.
    """

    def __init__(
        self,
        server_address: str,
        *,
        token: str | None = None,
        retry_delays: Sequence[float] = RETRY_DELAYS,
        health_retry_delays: Sequence[float] = (),
        request_timeout: float = 30.0,
        connection_timeout: float = 5.0,
    ) -> None:
        self._settings: dict[str, Any] = {
            "token": token or os.environ.get(TOKEN_VARIABLE) or None,
            "retry_delays": tuple(retry_delays),
            "request_timeout": request_timeout,
            "connection_timeout": connection_timeout,
        }
        self.server_address_root = _checked(server_address).rstrip("/").removesuffix(API)
        self.server_address = self.server_address_root + API
        self._poll = min(LONGEST_POLL, 0.8 * request_timeout)
        self._releases: set[asyncio.Future[int]] = set()
        self._unanswered: list[str] = []
        self._transport = Transport(self.server_address_root, **self._settings)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.server_address_root, self._settings)

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """What this store can do."""
        return {"thread_safe": True, "async_safe": True, "zero_copy": True, "otlp_traces": True}

    def otlp_traces_endpoint(self) -> str:
        """URL for OpenTelemetry's OTLP/HTTP exporters."""
        return f"{self.server_address_root}/v1/traces"

    # -- rollouts ---------------------------------------------------------------------------------------------------

    async def start_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        body = wire.dump(
            {
                "input": wire.raw("input", input),
                "mode": mode,
                "resources_id": resources_id,
                "config": None if config is None else wire.dump_config(config),
                "metadata": None if metadata is None else wire.raw("metadata", metadata),
                "worker_id": worker_id,
            }
        )
        return wire.parse(wire.ATTEMPTED, await self._post("/rollouts", body, key=_new_key()))

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> Sequence[Rollout]:
        if not rollouts:
            return []
        body = b'{"rollouts":' + wire.dump_list(rollouts, wire.dump_request) + b"}"
        return wire.parse(wire.ROLLOUTS, await self._post("/queues/rollouts/enqueue", body, key=_new_key()))

    async def dequeue_many_rollouts(
        self, limit: int = 1, worker_id: str | None = None, timeout: float = 0.0
    ) -> Sequence[AttemptedRollout]:
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            taken = await self._dequeue(limit, worker_id, min(left, self._poll))
            if taken or left <= self._poll:
                return taken

    async def _dequeue(self, limit: int, worker_id: str | None, timeout: float) -> Sequence[AttemptedRollout]:
        await self._release_unanswered()
        body = wire.dump({"limit": limit, "worker_id": worker_id, "timeout": timeout})
        key = _new_key()
        try:
            answer = await self._post("/queues/rollouts/dequeue", body, key=key, alone=timeout > 0)
        except asyncio.CancelledError:
            await self._give_back(key)
            raise
        except StoreUnavailableError:
            if request_key.get() is None:  # else who asked us will ask again, with the same key
                self._unanswered.append(key)
            raise
        return wire.parse(wire.ATTEMPTED_LIST, answer)

    async def _release_unanswered(self) -> None:
        """Give back what dequeues that failed may have taken: their worker lives, so that no watchdog would."""
        while self._unanswered:
            key = self._unanswered.pop()
            try:
                await self.release_rollouts(key)
            except BaseException:
                self._unanswered.append(key)
                raise

    async def _give_back(self, key: str) -> None:
        """Undo a dequeue that was cancelled and may have taken something, if that can be done soon."""
        task = asyncio.ensure_future(self.release_rollouts(key))
        self._releases.add(task)
        task.add_done_callback(self._released)
        await asyncio.wait([task], timeout=RELEASE_SECONDS)

    def _released(self, task: asyncio.Future[int]) -> None:
        self._releases.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("rollouts that a cancelled dequeue took may be lost to their workers: %s", error)

    async def release_rollouts(self, key: str) -> int:
        return orjson.loads(await self._post("/queues/rollouts/release", wire.dump({"key": key})))["released"]

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        body = wire.dump({"worker_id": worker_id})
        return wire.parse(wire.ATTEMPTED, await self._post(f"{_rollout(rollout_id)}/attempts", body, key=_new_key()))

    async def update_rollout(
        self,
        rollout_id: str,
        input: TaskInput | Unset = UNSET,
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Rollout:
        changes = _given(mode=mode, resources_id=resources_id, status=status)
        if not isinstance(input, Unset):
            changes["input"] = wire.raw("input", input)
        if not isinstance(config, Unset):
            changes["config"] = wire.dump_config(config)
        if not isinstance(metadata, Unset):
            changes["metadata"] = wire.raw("metadata", metadata)
        return wire.parse(wire.ROLLOUT, await self._post(_rollout(rollout_id), wire.dump(changes), key=_new_key()))

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"],
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Attempt:
        changes = _given(status=status, worker_id=worker_id, last_heartbeat_time=last_heartbeat_time)
        if not isinstance(metadata, Unset):
            changes["metadata"] = wire.raw("metadata", metadata)
        path = f"{_rollout(rollout_id)}/attempts/{_quoted(attempt_id)}"
        key = _new_key() if attempt_id == "latest" else None  # another one may be it when the request is repeated
        return wire.parse(wire.ATTEMPT, await self._post(path, wire.dump(changes), key=key))

    async def query_rollouts(
        self,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_in: Sequence[str] | None = None,
        rollout_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
    ) -> PaginatedResult[Rollout]:
        status_in = status if status_in is None else status_in
        rollout_id_in = rollout_ids if rollout_id_in is None else rollout_id_in
        query = {
            "status_in": None if status_in is None else list(status_in),
            "rollout_id_in": None if rollout_id_in is None else list(rollout_id_in),
            "rollout_id_contains": rollout_id_contains,
            "filter_logic": filter_logic,
            **_paging(sort_by, sort_order, limit, offset),
        }
        return wire.parse_rollouts(await self._post("/rollouts/search", wire.dump(query)))

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Attempt]:
        body = wire.dump(_paging(sort_by, sort_order, limit, offset))
        answer = await self._post(f"{_rollout(rollout_id)}/attempts/search", body)
        return wire.page_of(wire.parse(wire.ATTEMPT_PAGE, answer))

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        return await self._find(_rollout(rollout_id), wire.ROLLOUT)

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        return await self._find(f"{_rollout(rollout_id)}/attempts/latest", wire.ATTEMPT)

    async def wait_for_rollouts(self, *, rollout_ids: Sequence[str], timeout: float | None = None) -> list[Rollout]:
        ids = list(dict.fromkeys(rollout_ids))
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = self._poll if deadline is None else max(0.0, deadline - time.monotonic())
            body = wire.dump({"rollout_ids": ids, "timeout": min(left, self._poll)})
            done = wire.parse(wire.ROLLOUTS, await self._post("/waits/rollouts", body, alone=True))
            if len(done) == len(ids) or (deadline is not None and left <= self._poll):
                return done
            if not await self._open(ids):
                # What ended between the two requests is not in `done`: nothing more will end, so look once more.
                body = wire.dump({"rollout_ids": ids, "timeout": 0.0})
                return wire.parse(wire.ROLLOUTS, await self._post("/waits/rollouts", body))

    async def _open(self, ids: list[str]) -> bool:
        """Whether any of these rollouts is there and has not ended."""
        page = await self.query_rollouts(rollout_id_in=ids, status_in=_OPEN, limit=1)
        return page.total > 0

    # -- spans ------------------------------------------------------------------------------------------------------

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        if not spans:
            return []
        answer = await self._post("/spans/many", wire.dump_spans(spans))
        numbers: list[int | None] = orjson.loads(answer)["sequence_ids"]
        pairs = zip(spans, numbers, strict=True)
        return [_numbered(span, number) for span, number in pairs if number is not None]

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        pairs = [{"rollout_id": rollout_id, "attempt_id": attempt_id} for rollout_id, attempt_id in rollout_attempt_ids]
        return orjson.loads(await self._post("/spans/next", wire.dump(pairs)))["sequence_ids"] if pairs else []

    async def query_spans(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"] | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        limit: int = -1,
        offset: int = 0,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
    ) -> PaginatedResult[Span]:
        query = {
            "rollout_id": rollout_id,
            "attempt_id": attempt_id,
            "trace_id": trace_id,
            "trace_id_contains": trace_id_contains,
            "span_id": span_id,
            "span_id_contains": span_id_contains,
            "parent_id": parent_id,
            "parent_id_contains": parent_id_contains,
            "name": name,
            "name_contains": name_contains,
            "filter_logic": filter_logic,
            **_paging(sort_by, sort_order, limit, offset),
        }
        return wire.page_of(wire.parse(wire.SPAN_PAGE, await self._post("/spans/search", wire.dump(query))))

    async def query_many_spans(self, attempts: Sequence[tuple[str, str]]) -> dict[str, list[Span]]:
        body = wire.dump({"attempts": list(attempts)})
        return wire.parse(wire.SPANS_BY_ROLLOUT, await self._post("/spans/many/search", body, alone=True))

    # -- resources --------------------------------------------------------------------------------------------------

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        body = encode_resources(resources).encode()
        return wire.parse(wire.RESOURCES, await self._post("/resources", body, key=_new_key()))

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        body = encode_resources(resources).encode()
        path = f"/resources/{_quoted(resources_id)}"
        return wire.parse(wire.RESOURCES, await self._post(path, body, key=_new_key()))

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        return await self._find(f"/resources/{_quoted(resources_id)}", wire.RESOURCES)

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        return await self._find("/resources/latest", wire.RESOURCES)

    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[ResourcesUpdate]:
        query = {
            "resources_id": resources_id,
            "resources_id_contains": resources_id_contains,
            **_paging(sort_by, sort_order, limit, offset),
        }
        answer = await self._post("/resources/search", wire.dump(query))
        return wire.page_of(wire.parse(wire.RESOURCES_PAGE, answer))

    # -- workers ----------------------------------------------------------------------------------------------------

    async def query_workers(
        self,
        *,
        status_in: Sequence[str] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Worker]:
        query = {
            "status_in": None if status_in is None else list(status_in),
            "worker_id_contains": worker_id_contains,
            "filter_logic": filter_logic,
            **_paging(sort_by, sort_order, limit, offset),
        }
        return wire.page_of(wire.parse(wire.WORKER_PAGE, await self._post("/workers/search", wire.dump(query))))

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        return await self._find(f"/workers/{_quoted(worker_id)}", wire.WORKER)

    async def update_worker(self, worker_id: str, heartbeat_stats: dict[str, Any] | Unset = UNSET) -> Worker:
        changes: dict[str, Any] = {}
        if not isinstance(heartbeat_stats, Unset):
            changes["heartbeat_stats"] = wire.raw("heartbeat_stats", heartbeat_stats)
        return wire.parse(wire.WORKER, await self._post(f"/workers/{_quoted(worker_id)}", wire.dump(changes)))

    # -- the rest ---------------------------------------------------------------------------------------------------

    async def expire_attempts(self, now: float | None = None) -> list[Attempt]:
        return wire.parse(wire.ATTEMPTS, await self._post("/attempts/expire", wire.dump({"now": now})))

    async def trim(self, retention: int) -> int:
        return orjson.loads(await self._post("/rollouts/trim", wire.dump({"retention": retention})))["dropped"]

    async def statistics(self) -> LightningStoreStatistics:
        return orjson.loads(await self._transport.ask(Request("GET", f"{API}/statistics")))

    async def close(self) -> None:
        """Close the connections. The store itself goes on."""
        await self._transport.close()

    async def _post(self, path: str, body: bytes, *, key: str | None = None, alone: bool = False) -> bytes:
        return await self._transport.ask(Request("POST", API + path, body, key, alone))

    async def _find(self, path: str, adapter: TypeAdapter[Any]) -> Any:
        """What a GET answers; `None` where the store says that it is not there."""
        request = Request("GET", API + path)
        reply = await self._transport.try_ask(request)
        if reply.status == 404 and (refusal(reply.body) or {}).get("error_type") == "NotFoundError":
            return None
        if reply.status >= 400:
            raise_refusal(f"GET {self.server_address_root}{request.path}", *reply)
        return wire.parse(adapter, reply.body)


_OPEN: tuple[RolloutStatus, ...] = ("queuing", "requeuing", "preparing", "running")


def _make(server_address: str, settings: dict[str, Any]) -> LightningStoreClient:
    return LightningStoreClient(server_address, **settings)


def _new_key() -> str:
    """The key of the request that is being served, where a server stands before another one; else a fresh one."""
    return request_key.get() or secrets.token_hex(12)


def _numbered(span: Span, number: int) -> Span:
    return span if span.sequence_id == number else span.model_copy(update={"sequence_id": number})


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _rollout(rollout_id: str) -> str:
    return "/rollouts/" + quote(rollout_id, safe="")


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if not isinstance(value, Unset)}


def _paging(sort_by: str | None, sort_order: SortOrder, limit: int, offset: int) -> dict[str, Any]:
    return {"sort_by": sort_by, "sort_order": sort_order, "limit": limit, "offset": offset}


def _checked(address: str) -> str:
    url = urlsplit(address)
    try:
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # the port is no number, or too large
        good = False
    if not good:
        raise ConfigError(f"`server_address` is {address!r}; give the store's URL, as `http://127.0.0.1:4747`")
    return address
