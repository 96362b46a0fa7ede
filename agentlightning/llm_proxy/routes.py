"""Which models there are and who serves them. Filled by `LLMProxy`, read by `gateway` for every call.

Names and endpoints are changed by replacing a whole table, so other threads may do it while calls are running.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentlightning.types import ConfigError, RequestError

from .backend import Backend
from .endpoint import Closable, Endpoint, Server
from .entries import Connection, Entry, read_entry
from .gate import Gate
from .ledger import Prices
from .limits import MAX_PARALLEL_REQUESTS, MAX_WAITING, QUEUE_TIMEOUT_S, Limiter, Limits
from .pool import ModelPool
from .providers import connect


class ModelRoutes:
    """Model names and who serves them: backends in this process, and the endpoints of a model list.

    Args:
        num_retries: How often a call that failed before its first chunk is tried again.
        max_parallel_requests: Calls at backends at once, over all models; `None`: any number.
        rpm: Calls that begin within a minute, over all models; `None`: any number.
        max_waiting: Callers that may wait at one limit; further ones get 429.
        queue_timeout: Longest time in seconds that one waits there before it gets 429.

    Raises:
        ConfigError: a number that is too small.
    """

    def __init__(
        self,
        *,
        num_retries: int = 2,
        max_parallel_requests: int | None = MAX_PARALLEL_REQUESTS,
        rpm: int | None = None,
        max_waiting: int = MAX_WAITING,
        queue_timeout: float = QUEUE_TIMEOUT_S,
    ) -> None:
        for name, value in (("num_retries", num_retries), ("max_waiting", max_waiting)):
            if value < 0:
                raise ConfigError(f"`{name}` must be 0 or above, not {value}")
        if queue_timeout <= 0:
            raise ConfigError(f"`queue_timeout` must be above 0 seconds, not {queue_timeout}")
        self._num_retries = num_retries
        self._queue: dict[str, Any] = {"max_waiting": max_waiting, "queue_timeout": queue_timeout}
        self._gate = Gate()
        self._limiter = Limiter("the gateway", Limits(max_parallel_requests, rpm), **self._queue)
        self._changing = threading.Lock()
        self._own: dict[str, Endpoint] = {}
        self._listed: dict[str, dict[Connection, Endpoint]] = {}
        self._prices: dict[str, Prices] = {}
        self._info: dict[str, Mapping[str, Any]] = {}
        self._pools: dict[str, ModelPool] = {}
        # All that are listed, and those that are not but where calls still run.
        self._alive: weakref.WeakSet[Server] = weakref.WeakSet()

    # -- for calls --------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """All model names that are served."""
        return list(self._pools)

    def find(self, model: str) -> ModelPool:
        """Who serves `model`.

        Raises:
            RequestError: 404 listing the models that are served.
        """
        pool = self._pools.get(model)
        if pool is None:
            known = ", ".join(f"`{name}`" for name in self.names) or "none"
            raise RequestError(
                f"no model `{model}` here; served models: {known}", status=404, param="model", code="model_not_found"
            )
        return pool

    def prices(self, model: str) -> Prices:
        """What the tokens of a model cost; nothing where the model list says nothing."""
        return self._prices.get(model, Prices())

    def model_info(self, model: str) -> Mapping[str, Any]:
        """The `model_info` of a model's first entry; empty where there is none."""
        return self._info.get(model, {})

    # -- changes ----------------------------------------------------------------------------------------------------

    def set_backend(self, model_name: str, backend: Backend | None) -> None:
        """Serve `model_name` by `backend`, whatever the model list says; `None` takes it away again.

        From any thread. Running calls end where they began.
        """
        with self._changing:
            own = {name: endpoint for name, endpoint in self._own.items() if name != model_name}
            if backend is not None:
                server = self._server_of(backend)
                own[model_name] = Endpoint(server, 1.0, self._limiter_for(model_name, Limits()))
            self._change(own, self._listed)

    def _server_of(self, backend: Backend) -> Server:
        # One server a backend, or the end of the last call under one name would close the connections of another.
        server = next((server for server in self._alive if server.backend is backend), None)
        if server is None:
            server = Server(backend, "", remote=isinstance(backend, Closable))
            self._alive.add(server)
        server.listed = True
        return server

    def set_model_list(self, model_list: Sequence[Mapping[str, Any]]) -> None:
        """Replace the listed endpoints. Several entries of one name share its rollouts.

        From any thread. An endpoint that stays keeps its connections, its health and its running calls; one that goes
        is closed when its last call has ended.

        Raises:
            ConfigError: an entry that can't be used; nothing has changed then.
        """
        entries = [read_entry(entry, f"model_list[{index}]") for index, entry in enumerate(model_list)]
        prices = _prices(entries)
        with self._changing:
            listed, limits = self._list(entries)
            self._prices = prices
            self._info = {entry.model_name: entry.model_info for entry in reversed(entries)}
            self._change(self._own, listed)
            for limiter, new in limits:
                limiter.change(new)

    def _list(
        self, entries: Sequence[Entry]
    ) -> tuple[dict[str, dict[Connection, Endpoint]], list[tuple[Limiter, Limits]]]:
        """The new table, and the limits to be set when it is in force."""
        known = {key: one.server for endpoints in self._listed.values() for key, one in endpoints.items()}
        seen = Counter[tuple[str, Connection]]()
        listed: dict[str, dict[Connection, Endpoint]] = {}
        limits: list[tuple[Limiter, Limits]] = []
        for entry in entries:
            key = replace(entry.connection, copy=seen[entry.model_name, entry.connection])
            seen[entry.model_name, entry.connection] += 1
            if key not in known:
                known[key] = Server(connect(key), key.identity, remote=True)
                self._alive.add(known[key])
            old = self._listed.get(entry.model_name, {}).get(key)
            limiter = self._limiter_for(entry.model_name, entry.limits) if old is None else old.limiter
            limits.append((limiter, entry.limits))
            listed.setdefault(entry.model_name, {})[key] = Endpoint(known[key], entry.weight, limiter)
        return listed, limits

    def _change(self, own: dict[str, Endpoint], listed: dict[str, dict[Connection, Endpoint]]) -> None:
        before = self._servers()
        self._own, self._listed = own, listed
        pools: dict[str, ModelPool] = {}
        for name in dict.fromkeys([*own, *listed]):
            pool = self._pools.get(name) or ModelPool(name, self._gate, self._limiter, self._num_retries)
            pool.endpoints = (own[name],) if name in own else tuple(listed[name].values())
            pools[name] = pool
        for name, pool in self._pools.items():
            if name not in pools:
                pool.endpoints = ()
        self._pools = pools
        for server in before - self._servers():
            server.retire()

    def _servers(self) -> set[Server]:
        listed = [endpoint for endpoints in self._listed.values() for endpoint in endpoints.values()]
        return {endpoint.server for endpoint in [*self._own.values(), *listed]}

    def _limiter_for(self, model: str, limits: Limits) -> Limiter:
        return Limiter(f"an endpoint of `{model}`", limits, **self._queue)

    # -- weight updates ---------------------------------------------------------------------------------------------

    def pause(self, model: str | None = None) -> None:
        """Let calls wait until `resume`; those that are at a backend go on. From any thread.

        Args:
            model: Only calls of this name; `None`: all.
        """
        self._gate.pause(model)

    def resume(self, model: str | None = None) -> None:
        """Undo a `pause` with the same `model`. From any thread."""
        self._gate.resume(model)

    @property
    def paused(self) -> bool:
        """Whether calls of all models wait."""
        return self._gate.paused

    async def drain(self, timeout: float | None = None, model: str | None = None) -> None:
        """Return when no call is at a backend; after `pause`, none will be until `resume`. In any event loop.

        Args:
            timeout: Longest time to wait in seconds.
            model: Only calls of this name; `None`: all.

        Raises:
            TimeoutError: calls still run.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._gate.drained(model)
        except TimeoutError as error:
            raise TimeoutError(f"{self._gate.inside(model)} calls still run after {timeout:g} s") from error

    async def close(self) -> None:
        """Close the connections of all backends; they open again when needed. In the loop that the calls ran in."""
        for server in list(self._alive):
            await server.close()


def _prices(entries: Sequence[Entry]) -> dict[str, Prices]:
    prices: dict[str, Prices] = {}
    for entry in entries:
        if prices.setdefault(entry.model_name, entry.prices) != entry.prices:
            raise ConfigError(
                f"the entries of `{entry.model_name}` in `model_list` have different prices, so nobody could say what a"
                " call cost; give all of them the same `input_cost_per_token` and `output_cost_per_token`"
            )
    return prices
