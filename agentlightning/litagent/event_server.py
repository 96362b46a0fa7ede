"""The HTTP server to which programs post their events: one per event loop, on loopback, started when it is needed.

`command_agent` opens a door for each attempt. Its key is the program's right to speak for that attempt and ends with
it. What comes in is said by the emitters in the context of the attempt, so it becomes the same spans as those of an
agent in Python. It runs on the runner's own event loop, where the attempt lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator
from weakref import WeakKeyDictionary

from aiohttp import web

from agentlightning.tracer.base import get_current_trace
from agentlightning.types import AgentLightningError, ConflictError

from .events import BadEvent, RewardEvent, parse_event

logger = logging.getLogger(__name__)

BODY_BYTES = 4 * 2**20
REMEMBERED = 10_000
"""How many keys of ended attempts are known, to tell a late program from a stranger."""


class Door:
    """The events of one attempt.

    Args:
        url: Where to post them.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.key = secrets.token_urlsafe(32)
        self.rewards = 0
        """How many rewards came in."""
        self._context = contextvars.copy_context()

    async def take(self, body: bytes) -> None:
        """Say an event; a reward is in the store when this returns.

        Raises:
            BadEvent: the body is no event.
            ConflictError: the attempt has ended, or no longer counts.
        """
        trace = self._context.run(get_current_trace)
        if trace is None or trace.closed:
            raise ConflictError("this attempt has ended: its events count no more")
        event = parse_event(body)
        try:
            self._context.run(event.emit)
        except (TypeError, ValueError) as error:
            raise BadEvent(str(error)) from error
        if isinstance(event, RewardEvent):
            await trace.flush()  # the next LLM call comes after it
            self.rewards += 1


class EventServer:
    """The server of one event loop."""

    def __init__(self) -> None:
        self.url = ""
        self._doors: dict[str, Door] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    @contextlib.asynccontextmanager
    async def door(self) -> AsyncGenerator[Door, None]:
        """A door for the attempt in whose context this runs, as long as the `async with` lasts."""
        door = Door(self.url)
        self._doors[door.key] = door
        try:
            yield door
        finally:
            self.close(door)

    def close(self, door: Door) -> None:
        """Its attempt has ended; may be called again."""
        if self._doors.pop(door.key, None) is not None:
            self._ended[door.key] = None
            if len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)

    async def serve(self, ready: asyncio.Future[None]) -> None:
        """Serve until cancelled."""
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_post("/events", self._post)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        try:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
            ready.set_result(None)
            await asyncio.Event().wait()
        except Exception as error:  # noqa: BLE001  # raised in whoever waits for the server
            ready.set_exception(error)
        finally:
            await runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        key = _shown_key(request)
        door = self._doors.get(key)
        if key in self._ended:
            return _refuse(409, "this attempt has ended: its events count no more")
        if door is None:
            return _refuse(
                401, "`Authorization: Bearer <AGL_KEY>` is missing or wrong; AGL_KEY is new for each attempt"
            )
        try:
            await door.take(await request.read())
        except BadEvent as error:
            return _refuse(422, str(error))
        except ConflictError as error:
            return _refuse(409, str(error))
        except AgentLightningError as error:
            logger.warning("an event could not be stored yet: %s", error)
            return _refuse(503, str(error))
        return web.json_response({"status": "ok"}, status=201)


_servers: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[EventServer, asyncio.Task[None], asyncio.Future[None]]] = (
    WeakKeyDictionary()
)


async def event_server() -> EventServer:
    """The server of this event loop; it ends with the loop."""
    loop = asyncio.get_running_loop()
    found = _servers.get(loop)
    if found is None or found[1].done():
        server, ready = EventServer(), loop.create_future()
        found = server, asyncio.create_task(server.serve(ready), name="agl-event-server"), ready
        _servers[loop] = found
    await asyncio.shield(found[2])
    return found[0]


def _shown_key(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return (token.strip() if scheme.lower() == "bearer" else "") or request.headers.get("x-api-key", "")


def _refuse(status: int, detail: str) -> web.Response:
    return web.json_response({"detail": detail}, status=status)
