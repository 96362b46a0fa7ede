"""`LightningStoreServer`: serves a store over HTTP from a thread, and is that store for this process.

Started by execution strategies and `agl store`. Puts together `metrics`, `api` and `app`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from agentlightning.types import ConfigError
from agentlightning.utils.server_thread import ThreadedServer, host_in_url, is_loopback

from ..base import LightningStore, LightningStoreCapabilities
from ..client import LightningStoreClient
from .api import Api
from .app import StoreApp
from .metrics import Metrics

GOODBYE_S = 0.5
"""How long `run_forever` serves on at its end, so that runners between two requests hear that there is no more work."""
MAX_BODY_BYTES = 256 * 1024 * 1024
TOKEN_VARIABLE = "AGL_STORE_TOKEN"
_SEVERAL = "For several server processes, start several servers on one PostgreSQL store"


class LightningStoreServer(LightningStore):
    """A store served over HTTP.

    Its methods work on `store` in the process that made the server. In another one, where it came by pickle or fork,
    they go over HTTP.

    Args:
        store: What is served. Must allow calls from any thread.
        host: Address to listen on; `None`: 127.0.0.1.
        port: Where to listen; `None` or 0: a free port, chosen at `start`.
        token: What callers must show as `Authorization: Bearer ...` or `x-api-key`; by default `AGL_STORE_TOKEN`.
            Needed unless `host` is a loopback address.
        cors_allow_origins: Origins whose web pages may call; `"*"`: all.
        launch_mode: `thread`; `asyncio` is taken as the same.
        launcher_args: Only `None`: there are no launchers.
        n_workers: Only 1.
        tracker: Accepted with a warning: metrics are always at `/v1/prometheus`.
        access_host: Host name in `endpoint`; by default `host`, or 127.0.0.1 where that is a wildcard.
        max_body_bytes: Longest request body; longer ones get 413.

    Raises:
        ConfigError: an open host without `token`, or a `launch_mode`, `launcher_args`, `n_workers` or `port` that
            can't be.
    """

    def __init__(
        self,
        store: LightningStore,
        host: str | None = None,
        port: int | None = None,
        cors_allow_origins: Sequence[str] | str | None = None,
        launch_mode: str = "thread",
        launcher_args: Any = None,
        n_workers: int = 1,
        tracker: Any = None,
        *,
        token: str | None = None,
        access_host: str | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        host = host or "127.0.0.1"
        token = token or os.environ.get(TOKEN_VARIABLE) or None
        if not is_loopback(host) and not token:
            raise ConfigError(
                f"`host` {host!r} can be reached from other machines, so it needs a `token` "
                f"(or `{TOKEN_VARIABLE}`); or listen on 127.0.0.1"
            )
        if launch_mode not in ("thread", "asyncio"):
            raise ConfigError(f"`launch_mode` is {launch_mode!r}; give 'thread'. {_SEVERAL}")
        if n_workers != 1 or launcher_args is not None:
            raise ConfigError(
                f"`n_workers` is {n_workers}, `launcher_args` {launcher_args!r}; give neither. {_SEVERAL}"
            )
        if tracker is not None:
            warnings.warn("`tracker` is not used: metrics are always at `/v1/prometheus`", stacklevel=2)
        self.store = store
        self._token = token
        self._access_host = host_in_url(host, access_host)
        self._origins = [cors_allow_origins] if isinstance(cors_allow_origins, str) else list(cors_allow_origins or ())
        self._max_body_bytes = max_body_bytes
        self._server = ThreadedServer(host, port, self._build, name="agentlightning-store")
        self._app: StoreApp | None = None
        self._owner = os.getpid()
        self._client: LightningStoreClient | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve, in a thread of its own; returns when requests are taken. Nothing happens if it runs already.

        Raises:
            ConfigError: the port is taken.
        """
        await self._server.start()

    def end_waits(self) -> None:
        """Answer requests that wait, and from now on those that would, with 410: runners end. Others are served."""
        if self._app is not None:
            self._server.call_in_loop(self._app.end_waits)

    async def stop(self) -> None:
        """Answer waiting requests with 410, finish the others and end; the store stays open. Twice does no harm."""
        self.end_waits()
        await self._server.stop()

    async def run_forever(self) -> None:
        """`start`, and serve until SIGINT or SIGTERM (in the main thread) or until cancelled; then `stop`."""
        await self.start()
        done = asyncio.ensure_future(self._server.wait_done())
        ending, loop = asyncio.Event(), asyncio.get_running_loop()
        stopped = asyncio.ensure_future(ending.wait())
        signals = _signals()
        for number in signals:
            loop.add_signal_handler(number, ending.set)
        try:
            await asyncio.wait([done, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
            stopped.cancel()
            self.end_waits()
            await asyncio.sleep(GOODBYE_S)
            await self.stop()
            await done

    def is_running(self) -> bool:
        """Whether requests are served."""
        return self._server.is_running()

    def _build(self) -> ASGIApp:
        metrics = Metrics()
        api = Api(self.store, metrics)
        self._app = StoreApp(api, metrics, token=self._token, max_body_bytes=self._max_body_bytes)
        if not self._origins:
            return self._app
        return CORSMiddleware(self._app, allow_origins=self._origins, allow_methods=["*"], allow_headers=["*"])

    # -- where it is ------------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """`http://host:port`, for clients.

        Raises:
            RuntimeError: not started yet and no `port` was given.
        """
        return f"http://{self._access_host}:{self._server.port}"

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """What this store can do."""
        return {"thread_safe": True, "async_safe": True, "zero_copy": True, "otlp_traces": True}

    def otlp_traces_endpoint(self) -> str:
        """URL for OpenTelemetry's OTLP/HTTP exporters."""
        return f"{self.endpoint}/v1/traces"

    # -- as a store -------------------------------------------------------------------------------------------------

    def target(self) -> LightningStore:
        """The store itself in the process that made the server, a client of the server elsewhere."""
        if os.getpid() == self._owner:
            return self.store
        if self._client is None:
            self._client = LightningStoreClient(self.endpoint, token=self._token)
        return self._client

    async def close(self) -> None:
        """Stop serving and close the store."""
        if os.getpid() == self._owner:
            await self.stop()
        await self.target().close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _client, (self.endpoint, self._token)


def _client(endpoint: str, token: str | None) -> LightningStoreClient:
    return LightningStoreClient(endpoint, token=token)


def _signals() -> tuple[signal.Signals, ...]:
    """Those that end `run_forever`; none outside the main thread, which alone may handle them."""
    at_main = threading.current_thread() is threading.main_thread()
    return (signal.SIGINT, signal.SIGTERM) if at_main and os.name == "posix" else ()


def _delegate(name: str) -> Any:
    @functools.wraps(getattr(LightningStore, name))
    async def call(self: LightningStoreServer, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.target(), name)(*args, **kwargs)

    return call


# Every coroutine method of the interface, so that none is forgotten when the interface grows.
for _name, _method in vars(LightningStore).items():
    if inspect.iscoroutinefunction(_method) and _name not in vars(LightningStoreServer):
        setattr(LightningStoreServer, _name, _delegate(_name))
