"""`Recorder`: sees that the spans of a call are durable before its agent gets the answer. Used by `gateway`.

Spans go to the store at once; those that come while a write is under way go together in the next one. When the store
can't be reached, or takes longer than `SPOOL_AFTER_S`, spans go to the `Spool` on disk instead and their callers go on;
one task brings them to the store, in order, once it is back. As long as the spool holds anything, new spans go behind
it: the store numbers spans on arrival, so the order within an attempt stays.

Nothing is stored twice: a write whose outcome is unknown is repeated, and every home of the store takes a span of the
same rollout, attempt and span id only once.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentlightning.store.base import LightningStore
from agentlightning.types import LeaseLostError, NotFoundError, RequestError, Span, StoreClosedError

from .span_writes import AWAY, Call, encode, read, write
from .spool import AttemptKey, Spool

logger = logging.getLogger(__name__)

SPOOL_AFTER_S = 2.0
"""How long callers wait for the store, in seconds, before their spans go to the spool."""
CLOSE_S = 5.0
"""How long `close` waits for the store, in seconds."""
MOST_CALLS = 64
"""Calls in one write to the store."""
MOST_BYTES = 4 * 1024 * 1024
"""Of spans from the spool, in one write to the store."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between two tries to reach the store; each pause is twice the one before."""


@dataclass(slots=True)
class Counts:
    """Spans so far."""

    recorded: int = 0
    """Durable, in the store or in the spool."""
    spooled: int = 0
    """Of these: first written to the spool."""
    delivered: int = 0
    """Brought from the spool to the store."""
    dropped: int = 0
    """Taken from the spool though the store refuses them: their attempt no longer counts, or they don't fit."""


class Recorder:
    """Brings spans to a store. Lives in one event loop; made in any thread.

    Args:
        store: Any home.
        spool_dir: A directory for this gateway alone; calls that wait there from an earlier run are delivered. `None`:
            a private one is made when it is first needed; a restarted gateway does not look there.
        spool_after: See `SPOOL_AFTER_S`.
        earlier: The closed recorder that the same gateway had before, if any.

    Raises:
        ConfigError: another gateway has `spool_dir`, or what is there is no spool.
    """

    def __init__(
        self,
        store: LightningStore,
        spool_dir: Path | None = None,
        *,
        spool_after: float = SPOOL_AFTER_S,
        earlier: Recorder | None = None,
    ) -> None:
        self.counts = Counts()
        self.store = store
        self._spool_after = spool_after
        self._spool = None if spool_dir is None else Spool(spool_dir)
        self._private = spool_dir is None
        self.since = time.time() if self._spool is None else self._spool.made
        """Seconds since the epoch: of attempts that began earlier, calls may be in another gateway's spool."""
        self._ahead: float | None = None
        """Seconds by which the store's clock is ahead of the one here, once asked for."""
        self._lacking: dict[AttemptKey, Exception] = {}
        """Attempts that lack a call, because it could not be recorded."""
        if earlier is not None and earlier.store is store:
            self._lacking = earlier._lacking
            if self._private and not earlier._pending:
                self.since = earlier.since  # it left nothing behind
        self._spooling = bool(self._spool)
        """Whether new spans go to the spool."""
        self._pending: dict[AttemptKey, int] = self._spool.counts() if self._spool else {}
        """How many calls of an attempt are not yet in the store."""
        self._fresh: list[Call] = []
        """Calls that wait for the next write."""
        self._writing: list[Call] = []
        """Calls that are being written and are not from the spool."""
        self._work = asyncio.Event()
        self._ends: dict[AttemptKey, asyncio.Event] = {}
        """Set when an attempt has nothing pending any more; of those that somebody waits for."""
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    # -- for the gateway --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to deliver what is in the spool. Needs the event loop; the other methods do it too."""
        if self._worker is None and not self._closed:
            self._worker = asyncio.create_task(self._run(), name="agl-recorder")

    async def record(self, spans: list[Span]) -> None:
        """Return when the spans of one call, all of one attempt, are in the store, or in the spool on disk.

        A caller that is cancelled leaves its spans to be written all the same.

        Raises:
            LeaseLostError, NotFoundError: as `add_many_spans`, for these spans. Not while they go to the spool.
            ValueError, TypeError: a span that no store takes.
            StoreClosedError: the store is closed, or this recorder is.
            sqlite3.Error, OSError: the store can't be reached and the spool can't be written, as for a full disk.
        """
        if not spans:
            return
        key = (spans[0].rollout_id, spans[0].attempt_id)
        if self._closed:
            self._lacking[key] = StoreClosedError("the gateway has stopped and records no more calls")
            raise self._lacking[key]
        self.start()
        call = Call(key, spans, asyncio.get_running_loop().create_future())
        self._pending[call.key] = self._pending.get(call.key, 0) + 1
        if self._spooling:
            self._keep([call])
        else:
            self._fresh.append(call)
        self._work.set()
        assert call.told is not None
        await call.told

    async def covers(self, start_time: float) -> bool:
        """Whether no call of an attempt that began at `start_time`, by the store's clock, may be in another's spool.

        Raises as `store.statistics`, at first.
        """
        if self._ahead is None:
            told = (await self.store.statistics()).get("time")
            # Told at the end of however long the store was away, so compared with the time here at the end of it.
            self._ahead = 0.0 if told is None else told - time.time()
        return start_time - self._ahead >= self.since

    async def settled(self, rollout_id: str, attempt_id: str, timeout: float) -> None:
        """Return when nothing of an attempt waits here any more, in memory or in the spool.

        Args:
            rollout_id: Whose.
            attempt_id: Whose.
            timeout: Seconds.

        Raises:
            TimeoutError: something still waits.
            RequestError: 422, a call of the attempt could not be recorded; it stays incomplete.
        """
        self.start()
        key = (rollout_id, attempt_id)
        try:
            async with asyncio.timeout(timeout):
                await self._nothing_pending(key)
        except TimeoutError:
            raise TimeoutError(
                f"{self._pending.get(key, 0)} calls of attempt `{attempt_id}` still wait for the store"
            ) from None
        if (error := self._lacking.get(key)) is not None:
            raise RequestError(
                f"a call of attempt `{attempt_id}` could not be recorded, so the store lacks it: {error}",
                status=422,
                code="incomplete_attempt",
            ) from error

    async def close(self) -> None:
        """Write what waits, for up to `CLOSE_S` seconds; the rest stays in the spool. Twice does no harm."""
        if self._closed:
            return
        self._closed = True
        if self._worker is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    while self._pending:
                        await self._nothing_pending(next(iter(self._pending)))
            self._worker.cancel()
            await asyncio.wait({self._worker})
            self._keep([*self._writing, *self._fresh])
            self._give_up(self._writing, StoreClosedError("the gateway stopped before this call was recorded"))
            self._settle(self._writing)
        self._close_spool()

    async def _nothing_pending(self, key: AttemptKey) -> None:
        while key in self._pending:
            await self._ends.setdefault(key, asyncio.Event()).wait()

    def _close_spool(self) -> None:
        if self._spool is None:
            return
        left, folder = len(self._spool), self._spool.folder
        self._spool.close()
        if left:
            logger.warning(
                "%d calls were not delivered and stay in `%s`; a gateway with that `spool_dir` delivers them",
                left,
                folder,
            )
        elif self._private:
            shutil.rmtree(folder)

    # -- to the spool -----------------------------------------------------------------------------------------------

    def _keep(self, calls: Sequence[Call]) -> None:
        """Write calls to the spool, where they are not there yet, and let their callers go on."""
        kept: list[tuple[Call, bytes]] = []
        for call in calls:
            if call.ended or call.number is not None:
                continue
            try:
                kept.append((call, encode(call.spans)))
            except (ValueError, TypeError) as error:
                self._fail(call, error)
        if not kept:
            return
        try:
            numbers = self._open_spool().append((call.key, data) for call, data in kept)
        except (sqlite3.Error, OSError) as error:
            logger.error("%d calls could not be spooled: %s", len(kept), error)
            for call, _ in kept:
                self._fail(call, error)
            return
        for (call, _), number in zip(kept, numbers, strict=True):
            call.number = number
            self.counts.recorded += len(call.spans)
            self.counts.spooled += len(call.spans)
            call.tell()

    def _open_spool(self) -> Spool:
        if self._spool is None:
            self._spool = Spool(Path(tempfile.mkdtemp(prefix="agentlightning-spool-")))
        return self._spool

    def _overdue(self, why: object) -> None:
        """The store can't be had now: from here on calls go to the spool."""
        if not self._spooling:
            self._spooling = True
            logger.warning("the store does not take spans (%s); they are spooled to disk until it does", why)
        self._keep(self._writing)
        fresh, self._fresh = self._fresh, []
        self._keep(fresh)

    # -- to the store -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Write whatever waits, until cancelled."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                if self._spool:
                    await self._deliver(self._spool)
                elif self._fresh:
                    await self._pass_on()
                else:
                    self._work.clear()
                    await self._work.wait()
            except Exception as error:  # whatever it is: what waits must not wait for ever
                known = isinstance(error, (*AWAY, StoreClosedError))
                logger.warning("spans wait, next try in %g s: %s", pause, error, exc_info=None if known else error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                pause = FIRST_PAUSE_S

    async def _pass_on(self) -> None:
        """Write calls from memory. One that is overdue goes to the spool, while its write goes on."""
        calls = self._writing = self._fresh[:MOST_CALLS]
        del self._fresh[:MOST_CALLS]
        late = f"no answer within {self._spool_after:g} s"
        timer = asyncio.get_running_loop().call_later(self._spool_after, self._overdue, late)
        try:
            await write(self.store, calls)
        except AWAY as error:
            self._overdue(error)
            self._give_up(calls, error)
        except Exception as error:  # noqa: BLE001  # goes to the callers
            self._give_up(calls, error)
        finally:
            timer.cancel()
        self._writing = []
        self._settle(calls)
        self._spooling = bool(self._spool)

    def _give_up(self, calls: Sequence[Call], error: Exception) -> None:
        for call in calls:
            if not call.ended and call.number is None:
                call.end(error)

    async def _deliver(self, spool: Spool) -> None:
        """Write calls from the spool. Raises what keeps the store from taking them; they stay then."""
        calls = [read(entry) for entry in spool.first(MOST_CALLS, MOST_BYTES)]
        try:
            await write(self.store, [call for call in calls if not call.ended])
        finally:
            self._settle(calls)
        self._spooling = bool(spool)
        if not self._spooling:
            logger.info("the store takes spans again, the spool is empty; %s", self.counts)

    # -- afterwards -------------------------------------------------------------------------------------------------

    def _settle(self, calls: Sequence[Call]) -> None:
        """Count the calls that have ended, and take them from the spool."""
        for call in calls:
            if call.ended and call.number is None:
                self.counts.recorded += 0 if call.error else len(call.spans)
                self._note(call)
                self._forget(call.key)
        spooled = [call for call in calls if call.ended and call.number is not None]
        if self._spool is not None:
            self._spool.remove([call.number for call in spooled if call.number is not None])
        for call in spooled:
            if call.error is None:
                self.counts.delivered += len(call.spans)
            else:
                self._drop(call, call.error)
            self._forget(call.key)

    def _fail(self, call: Call, error: Exception) -> None:
        """A call can't be spooled: its caller gets the error, unless the store may still take it."""
        if call not in self._writing:
            call.end(error)
            self._note(call)
            self._forget(call.key)

    def _note(self, call: Call) -> None:
        """Remember that its attempt lacks a call, if it does and still counts.

        Also where the agent got an error instead of the answer: it has seen the text of a stream.
        """
        if call.error is not None and not isinstance(call.error, (LeaseLostError, NotFoundError)):
            self._lacking[call.key] = call.error

    def _forget(self, key: AttemptKey) -> None:
        left = self._pending[key] - 1
        if left:
            self._pending[key] = left
            return
        del self._pending[key]
        if (waiting := self._ends.pop(key, None)) is not None:
            waiting.set()

    def _drop(self, call: Call, error: Exception) -> None:
        self.counts.dropped += len(call.spans)
        if isinstance(error, (LeaseLostError, NotFoundError)):
            logger.info("dropped a call of attempt %s, which no longer counts: %s", call.key[1], error)
        else:
            logger.error("the store refuses an answered call of attempt %s: %s", call.key[1], error)
            self._note(call)
