"""Who may serve a call: a `Server` is a backend and its health, an `Endpoint` is a server's part in one model.

Made by `routes`, chosen among by `pool`. Everything here lives in the gateway's event loop, except where it says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agentlightning.types import RequestError

from .backend import Backend, Dialect
from .health import LONGEST_PAUSE_S, Health, is_transient, jitter
from .limits import Limiter

logger = logging.getLogger(__name__)

_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 8.0
_background: set[asyncio.Task[None]] = set()


@runtime_checkable
class Closable(Protocol):
    """A backend that holds connections."""

    async def close(self) -> None:
        """Close them; the next call opens new ones."""
        ...


class Server:
    """One backend, which may serve several models.

    Args:
        backend: Answers the calls.
        identity: What rollouts are assigned by; the same in every process and after every change of the model list.
        remote: Whether a failure may pass. What fails in this process fails the same way again.
    """

    def __init__(self, backend: Backend, identity: str, *, remote: bool) -> None:
        self.backend = backend
        self.identity = identity
        self.health = Health(getattr(backend, "base_url", None))
        self.calls = 0
        """Calls that are on their way there, waiting ones included."""
        self.listed = True
        """Whether new calls come; if not, it is closed after its last one."""
        self._remote = remote
        self._loop: asyncio.AbstractEventLoop | None = None
        self._key = hashlib.blake2b(identity.encode(), digest_size=16).digest()

    def failed(self, error: RequestError) -> bool:
        """Note a failed call; whether it is worth trying again."""
        if not self._remote or not is_transient(error):
            return False
        self.health.failed(error)
        return True

    def arrive(self) -> None:
        """A call is on its way."""
        self._loop = asyncio.get_running_loop()
        self.calls += 1

    def leave(self) -> None:
        """A call has ended."""
        self.calls -= 1
        if not self.listed:
            self._close_soon()

    def retire(self) -> None:
        """Close it when no call runs. Nobody is sent there any more. From any thread."""
        self.listed = False
        loop = self._loop
        if loop is not None:  # else there was no call, so nothing is open
            with contextlib.suppress(RuntimeError):  # that gateway was stopped, which closed everything
                loop.call_soon_threadsafe(self._close_soon)

    def _close_soon(self) -> None:
        task = asyncio.create_task(self._close_if_done())
        _background.add(task)
        task.add_done_callback(_closed)

    async def _close_if_done(self) -> None:
        if not self.listed and not self.calls:  # it may have been listed again
            await self.close()

    async def close(self) -> None:
        """Close its connections and stop asking for its health. Calls open and ask again."""
        self._loop = None
        self.health.close()
        if isinstance(self.backend, Closable):
            await self.backend.close()

    def pull(self, rollout_id: str, weight: float) -> float:
        """How strongly a rollout is drawn here: it goes where this is highest (rendezvous hashing, weighted).

        Adding or removing a server moves only the rollouts that it takes or had. Source: Thaler and Ravishankar 1998;
        the weights as in Schindelhauer and Schomaker 2005.
        """
        digest = hashlib.blake2b(rollout_id.encode(errors="surrogatepass"), key=self._key, digest_size=8).digest()
        uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
        return -weight / math.log(uniform) if uniform < 1.0 else math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A server's part in one model: its share of the rollouts and its limits."""

    server: Server
    weight: float
    limiter: Limiter

    @property
    def speaks(self) -> frozenset[Dialect]:
        """The dialects that it takes."""
        return self.server.backend.speaks

    def rank(self, rollout_id: str | None) -> tuple[int, bool, float]:
        """The lowest of several is to be called: healthy ones first, then those whose limits let one through."""
        server = self.server
        if rollout_id is None:
            last = (server.calls + jitter(0.01)) / self.weight  # ties are broken by chance
        else:
            last = -server.pull(rollout_id, self.weight)
        return server.health.state, not self.limiter.free, last


class Tries:
    """The tries of one call.

    Args:
        dialect: What the request is written in.
        rollout_id: Whose it is, if anybody's.
        retries: How often it may be tried again.
    """

    def __init__(self, dialect: Dialect, rollout_id: str | None, retries: int) -> None:
        self._dialect = dialect
        self._rollout_id = rollout_id
        self._left = retries
        self._round = 0
        self._able: set[Server] = set()
        self._waits: dict[Server, float] = {}
        """Those tried in this round, and the time that they asked for."""

    def choose(self, model: str, endpoints: Sequence[Endpoint]) -> Endpoint:
        """The endpoint for the next try: none twice before all had their turn.

        Raises:
            RequestError: 503, no endpoint is left, or none speaks the dialect.
        """
        able = [endpoint for endpoint in endpoints if self._dialect in endpoint.speaks]
        if not able:
            raise RequestError(
                f"model `{model}` is not served any more, or no longer takes {self._dialect}; ask again", status=503
            )
        self._able = {endpoint.server for endpoint in able}
        if len(able) == 1:
            return able[0]
        fresh = [endpoint for endpoint in able if endpoint.server not in self._waits] or able
        return min(fresh, key=lambda endpoint: endpoint.rank(self._rollout_id))

    def failed(self, server: Server, error: RequestError) -> float:
        """Note a failure; seconds to wait before the next try.

        Raises:
            RequestError: `error`, if trying again is of no use or not allowed.
        """
        if not server.failed(error) or not self._left:
            raise error
        self._left -= 1
        self._waits[server] = error.retry_after or 0.0
        if self._able - self._waits.keys():
            return 0.0
        asked = min(self._waits.values())
        if asked > LONGEST_PAUSE_S:
            raise error
        backoff = min(_FIRST_BACKOFF_S * 2.0**self._round, _LONGEST_BACKOFF_S)
        self._round += 1
        self._waits.clear()
        return asked + jitter(backoff)


def _closed(task: asyncio.Task[None]) -> None:
    _background.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the connections of a backend could not be closed", exc_info=error)
