"""All endpoints of one model behind one face: who serves a call, when it may begin, and what if that fails.

Made by `routes`, called by `gateway`. A call passes the gate, waits for the limits of its endpoint and of the gateway,
and passes the gate again (it may have been closed meanwhile). A call that fails before its first chunk goes through
all that once more, so calls that wait to be tried again hold nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager

from agentlightning.types import ChatReply, RequestError

from .backend import Dialect, Json
from .endpoint import Endpoint, Server, Tries
from .gate import Gate
from .limits import Limiter, QueueError


class ModelPool:
    """Serves one model.

    Args:
        name: What agents call it.
        gate: Shared by all models.
        limiter: Of the whole gateway.
        num_retries: How often a call that failed before its first chunk is tried again.
    """

    def __init__(self, name: str, gate: Gate, limiter: Limiter, num_retries: int) -> None:
        self.name = name
        self.endpoints: Sequence[Endpoint] = ()
        """Replaced as a whole, also by other threads."""
        self._gate = gate
        self._limiter = limiter
        self._num_retries = num_retries

    @property
    def speaks(self) -> frozenset[Dialect]:
        """The dialects that every endpoint takes."""
        spoken = [endpoint.speaks for endpoint in self.endpoints]
        return frozenset.intersection(*spoken) if spoken else frozenset()

    async def call(self, dialect: Dialect, body: Json, *, rollout_id: str | None) -> ChatReply:
        """Answer a request, see `Backend.call`.

        Args:
            dialect: What `body` is written in.
            body: The request.
            rollout_id: Keeps the calls of a rollout on one endpoint, for its prefix cache; `None`: the least busy one.

        Raises:
            RequestError: what the last endpoint that was tried said; 429 if the limits let nobody through in time.
        """
        tries = Tries(dialect, rollout_id, self._num_retries)
        while True:
            async with self._turn(tries) as server:
                try:
                    reply = await server.backend.call(dialect, body)
                except RequestError as error:
                    wait_s = tries.failed(server, error)
                else:
                    server.health.answered()
                    return reply
            await asyncio.sleep(wait_s)

    async def stream(
        self, dialect: Dialect, body: Json, *, rollout_id: str | None
    ) -> AsyncGenerator[Json | ChatReply, None]:
        """Answer a request in chunks, see `Backend.stream`. Arguments and errors as in `call`.

        Once a chunk has come, no other endpoint is tried: an error passes on.
        """
        tries = Tries(dialect, rollout_id, self._num_retries)
        while True:
            async with self._turn(tries) as server, aclosing(server.backend.stream(dialect, body)) as parts:
                try:
                    first = await anext(parts, None)
                except RequestError as error:
                    wait_s = tries.failed(server, error)
                else:
                    if first is not None:
                        yield first
                    try:
                        async for part in parts:
                            yield part
                    except RequestError as error:
                        server.failed(error)
                        raise
                    server.health.answered()
                    return
            await asyncio.sleep(wait_s)

    @asynccontextmanager
    async def _turn(self, tries: Tries) -> AsyncGenerator[Server]:
        """One try: who serves it, when its time has come."""
        while True:
            await self._gate.opened(self.name)
            endpoint = tries.choose(self.name, self.endpoints)
            endpoint.server.arrive()
            try:
                if await self._may_begin(endpoint.limiter):
                    try:
                        yield endpoint.server
                    finally:
                        self._gate.leave(self.name)
                        self._limiter.release()
                        endpoint.limiter.release()
                    return
            finally:
                endpoint.server.leave()

    async def _may_begin(self, own: Limiter) -> bool:
        """Wait for a turn; `False` (and nothing is held) if calls were paused meanwhile."""
        try:
            turn = await own.acquire()
            try:
                shared = await self._limiter.acquire()
            except BaseException:
                own.give_back(turn)
                raise
        except QueueError:
            if self._gate.is_paused(self.name):
                return False
            raise
        if self._gate.enter(self.name):
            return True
        self._limiter.give_back(shared)
        own.give_back(turn)
        return False
