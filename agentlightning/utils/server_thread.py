"""Runs an ASGI application on uvicorn in a thread with an event loop of its own.

The gateway (`llm_proxy.proxy`) and the store's server (`store.server`) each hold a `ThreadedServer`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from agentlightning.types import ConfigError

KEEP_ALIVE_SECONDS = 75
"""Longer than agents pause between calls: a connection closed too early costs them a retry."""
DRAIN_SECONDS = 10
"""How long `stop` waits for running calls before it cancels them."""
BACKLOG = 2048


def bind(host: str, port: int | None) -> socket.socket:
    """A listening socket; `port` `None` or 0 takes a free one.

    Raises:
        ConfigError: the address can't be used, naming it.
    """
    sock: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)  # only listening makes sure that nobody else does
    except OSError as error:
        if sock is not None:
            sock.close()
        raise ConfigError(
            f"`port` {port} on `host` {host} can't be used: {error}; choose another, or `port=None` for a free one"
        ) from error
    return sock


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_in_url(host: str, access_host: str | None) -> str:
    """How URLs name a server that listens on `host`; 127.0.0.1 for a wildcard unless `access_host` says better."""
    name = access_host or ("127.0.0.1" if host in ("0.0.0.0", "::") else host)
    return f"[{name}]" if ":" in name else name


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Future[None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set_result(None)


class ServerThread:
    """One running server.

    Args:
        app: What it serves.
        sock: A listening socket; closed at the end.
        on_stop: Run in the server's loop after the last request.
        name: Of the thread.
    """

    def __init__(
        self,
        app: ASGIApp,
        sock: socket.socket,
        on_stop: Callable[[], Awaitable[None]],
        name: str,
    ) -> None:
        self.ready: Future[None] = Future()
        """Done when requests are served, or with the reason why they are not."""
        self.done: Future[None] = Future()
        """Done when the thread is about to end, with the error that ended it if there was one."""
        self._sock = sock
        self._on_stop = on_stop
        self._loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        self._server = _Server(config, self.ready)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; `ready` says when."""
        self._thread.start()

    async def wait_ready(self) -> None:
        """Return when requests are served; raise what kept them from it."""
        await _shielded(self.ready)

    async def wait_done(self) -> None:
        """Return when the thread has ended; raise the error that ended it, if any."""
        try:
            await _shielded(self.done)
        finally:
            if self.done.done():
                self._thread.join()  # what sets `done` is the thread's last statement: this takes microseconds

    def stop(self) -> None:
        """Take no more requests and finish the running ones; `done` says when."""
        self._server.should_exit = True

    def call_in_loop(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the server's loop soon; not if the server has ended."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # closed
                loop.call_soon_threadsafe(callback)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # handed to whoever waits
            if not self.ready.done():
                self.ready.set_exception(error)
            self.done.set_exception(error)
        else:
            self.done.set_result(None)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await self._server.serve(sockets=[self._sock])
        finally:
            self._sock.close()
            await self._on_stop()


class ThreadedServer:
    """A server that may be started and stopped, again and again; each time it is a `ServerThread`.

    Args:
        host: Address to listen on.
        port: Where to listen; `None` or 0: a free port, chosen at each start.
        make_app: Makes what is served, at each start.
        name: Of the thread, and in messages.
        on_stop: Run in the server's loop after the last request.

    Raises:
        ConfigError: a port that there is not.
    """

    def __init__(
        self,
        host: str,
        port: int | None,
        make_app: Callable[[], ASGIApp],
        *,
        name: str,
        on_stop: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        if port is not None and not 0 <= port <= 65535:
            raise ConfigError(f"`port` {port} is not between 0 and 65535; `port=None` takes a free one")
        self._host, self._wanted_port = host, port
        self._make_app, self._on_stop, self._name = make_app, on_stop, name
        self._port: int | None = None
        self._running: ServerThread | None = None

    async def start(self) -> None:
        """Serve; returns when requests are taken. Nothing happens if it runs already.

        Raises:
            ConfigError: the port is taken.
        """
        if self._running is None or self._running.done.done():
            sock = bind(self._host, self._wanted_port)
            self._port = sock.getsockname()[1]
            self._running = ServerThread(self._make_app(), sock, self._on_stop or _nothing, self._name)
            self._running.start()
        await self._running.wait_ready()

    async def stop(self) -> None:
        """Finish running calls (those that take longer than `DRAIN_SECONDS` are cancelled) and end. Twice is fine."""
        running = self._running
        if running is None:
            return
        running.stop()
        try:
            await running.wait_done()
        finally:
            if self._running is running:
                self._running = None

    async def wait_done(self) -> None:
        """Return when it has ended; raise the error that ended it, if any."""
        if self._running is not None:
            await self._running.wait_done()

    def is_running(self) -> bool:
        """Whether requests are served."""
        return self._running is not None and self._running.ready.done() and not self._running.done.done()

    def call_in_loop(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the server's loop soon; not if it does not run."""
        if self._running is not None:
            self._running.call_in_loop(callback)

    @property
    def port(self) -> int:
        """The port that is listened on.

        Raises:
            RuntimeError: not started yet and no `port` was given.
        """
        port = self._port if self._running is not None else self._wanted_port
        if not port:
            raise RuntimeError(f"`{self._name}` has no port yet; call `start` first, or give it a `port`")
        return port


async def _nothing() -> None:
    return None


async def _shielded(future: Future[None]) -> None:
    # Who gives up waiting must not cancel the future that the server thread sets.
    await asyncio.shield(asyncio.wrap_future(future))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop
