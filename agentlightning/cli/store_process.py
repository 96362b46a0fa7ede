"""The processes of `agl store`: the one that serves, and the parent that starts it again when it dies.

The parent never touches the store, so there is little in it that could die. It takes the port that the first child got
for all that follow, so clients find the store where it was. A child ends when its parent is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning.types import ConfigError

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.store.client_server import LightningStoreServer

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0
"""A server that ran longer than this did not die of its start: the next one starts at once."""
STOP_S = 30.0
"""How long a stopped server may take to finish what it does."""


@dataclass(frozen=True)
class Settings:
    """What to serve, where. `home=None` is memory."""

    home: str | None
    host: str
    port: int
    token: str | None
    retention: int | None
    cors_origins: tuple[str, ...]
    log_level: str | None

    def command(self) -> list[str]:
        """The command line of the child. The token is not in it: everybody can read command lines."""
        words = [sys.executable, "-m", "agentlightning.cli", "store", *([self.home] if self.home else ["--memory"])]
        words += ["--host", self.host, "--port", str(self.port), "--parent"]
        words += [] if self.retention is None else ["--retention", str(self.retention)]
        words += [] if self.log_level is None else ["--log-level", self.log_level]
        for origin in self.cors_origins:
            words += ["--cors-origin", origin]
        return words

    def environment(self) -> dict[str, str]:
        """Of the child."""
        return {**os.environ, **({} if self.token is None else {"AGL_STORE_TOKEN": self.token})}


# -- the process that serves ----------------------------------------------------------------------------------------


def serve(settings: Settings, *, parent: bool) -> None:
    """Serve in this process until SIGINT or SIGTERM.

    Args:
        settings: What to serve.
        parent: Whether `supervise` runs us: it gets the address on stdout, and we end when stdin does.
    """
    asyncio.run(_serve(settings, parent))


async def _serve(settings: Settings, parent: bool) -> None:
    from agentlightning.store.client_server import LightningStoreServer

    store = open_home(settings)
    try:
        server = LightningStoreServer(
            store,
            host=settings.host,
            port=settings.port,
            token=settings.token,
            cors_allow_origins=settings.cors_origins,
        )
        await server.start()
        print(server.endpoint if parent else banner(settings, server.endpoint), flush=True)
        await _until_stopped(server, parent)
    finally:
        await store.close()


async def _until_stopped(server: LightningStoreServer, parent: bool) -> None:
    serving = asyncio.ensure_future(server.run_forever())
    if parent:
        loop = asyncio.get_running_loop()
        threading.Thread(target=_await_orphanhood, args=(loop, serving.cancel), daemon=True).start()
    await asyncio.wait({serving})
    if not serving.cancelled():
        serving.result()


def _await_orphanhood(loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> None:
    while os.read(0, 1024):
        pass
    loop.call_soon_threadsafe(stop)


def open_home(settings: Settings) -> LightningStore:
    """The store that the settings name.

    Raises:
        ConfigError: there is no such place, or it is no store.
    """
    from agentlightning.store import InMemoryLightningStore, SqlLightningStore

    if settings.home is None:
        if settings.retention is None:
            return InMemoryLightningStore()
        return InMemoryLightningStore(retention=settings.retention)
    if Path(settings.home).is_dir():
        raise ConfigError(f"`{settings.home}` is a directory; give a file, as `{Path(settings.home, 'store.sqlite')}`")
    try:
        return SqlLightningStore(settings.home, retention=settings.retention)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error
    except (OSError, sqlite3.Error) as error:  # no permission, no space
        raise ConfigError(f"store file `{settings.home}` can't be opened ({error}); give another path") from error


def banner(settings: Settings, url: str) -> str:
    """What is served where, and what to do next."""
    token = ""
    if settings.token is not None:
        token = "\nset AGL_STORE_TOKEN to the token there first"
    return f"""store:   {shown_home(settings.home)}
serving: {url}   (interface: {url}/openapi.json, metrics: {url}/v1/prometheus)

next, in other terminals:{token}
    agl runner my_agent:agent --store {url}
    agl query rollouts --store {url}
Ctrl-C ends it, and the runners that wait for work."""


# -- the parent -----------------------------------------------------------------------------------------------------


def supervise(settings: Settings) -> int:
    """Keep a serving child alive until SIGINT or SIGTERM; the exit code for this process."""
    return asyncio.run(_supervise(settings))


async def _supervise(settings: Settings) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    served, failures = False, 0
    while True:
        began = loop.time()
        child = await _start(settings)
        url = await _first_line(child, stopped)
        if url and not served:
            print(banner(settings, url), flush=True)
            served, settings = True, replace(settings, port=int(url.rpartition(":")[2]))
        ended = asyncio.create_task(child.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            return await _stop(child, ended)
        code = ended.result()
        if not served:
            return code if code > 0 else 1  # it said why on stderr
        failures = 0 if loop.time() - began > STEADY_S else failures + 1
        pause = 0.0 if failures == 0 else min(0.05 * 2**failures, LONGEST_PAUSE_S)
        print(f"the store's server died ({_how(code)}); another one starts in {pause:g} s", file=sys.stderr, flush=True)
        await asyncio.wait({stopped}, timeout=pause)
        if stopped.done():
            return 0


async def _start(settings: Settings) -> asyncio.subprocess.Process:
    # In a session of its own: of a Ctrl-C in the terminal it learns from us, once.
    return await asyncio.create_subprocess_exec(
        *settings.command(),
        env=settings.environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def _first_line(child: asyncio.subprocess.Process, stopped: asyncio.Task[bool]) -> str:
    """The address that it serves; empty if it ends first, or if we are stopped."""
    assert child.stdout is not None
    reading = asyncio.create_task(child.stdout.readline())
    await asyncio.wait({reading, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if reading.done():
        return reading.result().decode().strip()
    reading.cancel()
    return ""


async def _stop(child: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> int:
    if not ended.done():
        child.terminate()
        await asyncio.wait({ended}, timeout=STOP_S)
    if not ended.done():
        print(f"the store's server did not end within {STOP_S:g} s and is killed", file=sys.stderr)
        child.kill()
        await ended
        return 1
    return 0


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def shown_home(home: str | None) -> str:
    """The home for people: a password in a URL is left out."""
    if home is None:
        return "memory (gone when this ends)"
    if "://" not in home:
        return str(Path(home).resolve())
    from sqlalchemy import make_url

    return make_url(home).render_as_string(hide_password=True)
