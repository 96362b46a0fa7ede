"""`Writer`: one thread that owns a database connection and commits in groups.

`sql` hands it operations. What callers of one event loop ask for at about the same time goes to the thread together
(`ROUNDS`), because to wake it costs more than a small operation. The thread takes all that are waiting, runs them in
one transaction, commits, and only then answers: an answered operation is in the database, and those that came together
share the cost of a commit. An operation that raises after it has written, or a commit that fails, undoes the whole
group; then each operation of the group runs again in a transaction of its own, so that one operation's failure is
nobody else's. What fails because of others (deadlocks, a lost connection) runs again, a bounded number of times.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from agentlightning.types import StoreClosedError, StoreUnavailableError

from .ledger import Effects, Ledger
from .sql_ledger import SqlLedger

GROUP = 256
"""About the most operations that share a commit; bounds how long the first of them waits for the last."""
ROUNDS = 4
"""Of the event loop, each some microseconds, from the first operation to the hand-over: a runner writes the end of one
attempt and asks for the next rollout within so many."""
TRIES = 12
"""How often an operation runs that others keep from succeeding."""
PAUSE = 0.05
"""Most seconds between two such tries."""

R = TypeVar("R")
Operation = Callable[[Ledger], R]


class Database(Protocol):
    """A connection: its rows, and how its transactions begin and end. Used by the writer's thread only."""

    where: str
    """What it is, for messages."""
    ledger: SqlLedger
    errors: tuple[type[Exception], ...]
    """What the driver raises. Such an error undoes the transaction, whether it has written or not."""

    def begin(self, *, patient: bool) -> None:
        """Args: `patient`: wait for other writers as long as it takes; others may be told to come again."""

    def commit(self, effects: Effects, *, wrote: bool) -> None:
        """Args: `effects`: what other users of the database wait for; `wrote`: whether there is anything to keep."""

    def rollback(self) -> None: ...
    def passing(self, error: BaseException) -> bool:
        """Whether the error comes from what others did, so that the same may succeed when it is done again."""
        ...

    def lost(self) -> bool:
        """Whether the connection is gone; `begin` makes a new one."""
        ...

    def explained(self, error: Exception) -> Exception:
        """What callers get for an error of the driver."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Job:
    """An operation and who waits for it."""

    operation: Operation[Any]
    loop: asyncio.AbstractEventLoop | None
    """`None`: nobody waits."""
    future: asyncio.Future[Any] | None
    undo: Callable[[Any], Operation[None]] | None
    result: Any = None
    error: BaseException | None = None
    effects: Effects = field(default_factory=Effects)

    def cancelled(self) -> bool:
        """Whether the caller went away; safe to ask from any thread."""
        return self.future is not None and self.future.cancelled()


class Writer:
    """The thread. `close` ends it.

    Args:
        database: The connection; it is the thread's until closed.
        committed: Called in the thread with what a committed group did.
    """

    def __init__(self, database: Database, committed: Callable[[Effects], None]) -> None:
        self._database = database
        self._committed = committed
        self._lock = threading.Lock()
        self._closed = False
        self._jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._gathered: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        # A daemon, because everything answered is safe without it: a program that forgets to close may end.
        self._thread = threading.Thread(target=self._work, name="agl-store-writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Operation[R], undo: Callable[[R], Operation[None]] | None = None) -> R:
        """Run an operation and wait until it is committed.

        Args:
            operation: May be run twice; only the last run counts.
            undo: From the result, the operation that takes it back if the caller is cancelled before it has it.

        Raises:
            StoreClosedError: the writer is closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._gather(loop, Job(operation, loop, future, undo))
        try:
            return await future
        except asyncio.CancelledError:
            # Cancelled between the answer and its arrival here; earlier cancellations are seen by `_answer`.
            if undo is not None and not future.cancelled() and future.exception() is None:
                with contextlib.suppress(StoreClosedError):  # closed meanwhile: the rollout stays with its attempt
                    self._put([Job(undo(future.result()), None, None, None)])
            raise

    async def close(self) -> None:
        """Finish what is waiting, then close the connection. Calls after the first wait for the same end."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for jobs in self._gathered.values():
                    self._jobs.put(jobs)
                self._gathered.clear()
                self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _gather(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        """Hand over in some rounds of the loop, together with what is asked for until then."""
        with self._lock:
            self._refuse_if_closed()
            jobs = self._gathered.get(loop)
            if jobs is not None:
                jobs.append(job)
                return
            for ended in [other for other in self._gathered if other.is_closed()]:
                del self._gathered[ended]
            self._gathered[loop] = [job]
        loop.call_soon(self._hand_over, loop, ROUNDS)

    def _hand_over(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        if rounds > 1:
            loop.call_soon(self._hand_over, loop, rounds - 1)
            return
        with self._lock:
            if jobs := self._gathered.pop(loop, None):  # else `close` has handed them over
                self._jobs.put(jobs)

    def _put(self, jobs: list[Job]) -> None:
        with self._lock:
            self._refuse_if_closed()
            self._jobs.put(jobs)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed; open a new one")

    def _work(self) -> None:
        while (group := self._jobs.get()) is not None:
            last = False
            with contextlib.suppress(queue.Empty):
                while len(group) < GROUP and not last:
                    following = self._jobs.get_nowait()
                    last = following is None
                    group = [*group, *(following or ())]
            self._serve(group)
            if last:
                break
        self._database.close()

    def _serve(self, group: list[Job]) -> None:
        failure = None
        for tries in range(TRIES):
            group = [job for job in group if not job.cancelled()]
            if not group:
                return
            failure = self._complete(group, patient=tries > 0)
            if failure is None or not self._database.passing(failure):
                break
            if self._database.lost():
                continue  # nobody's fault: all of them again
            if len(group) > 1:
                break
            time.sleep(random.random() * PAUSE)
        if failure is None or len(group) == 1 or isinstance(failure, StoreUnavailableError):
            self._settle(group, failure)
            return
        for job in group:
            self._serve([job])

    def _complete(self, group: list[Job], *, patient: bool) -> BaseException | None:
        """Run a group and commit; what undid all of it, if anything did."""
        try:
            self._database.begin(patient=patient)
            wrote = [self._run(job) for job in group]
            self._database.commit(_effects(group), wrote=any(wrote))
        except Exception as error:  # noqa: BLE001  # goes to the callers
            with contextlib.suppress(Exception):  # some failures have ended the transaction already
                self._database.rollback()
            return error
        return None

    def _run(self, job: Job) -> bool:
        """Whether the operation has written."""
        ledger = self._database.ledger
        ledger.wrote, job.error = False, None
        job.effects = ledger.effects = Effects()
        try:
            job.result = job.operation(ledger)
        except self._database.errors:
            raise
        except Exception as error:
            if ledger.wrote:
                raise
            job.error = error
        return ledger.wrote

    def _settle(self, group: list[Job], failure: BaseException | None) -> None:
        """Answer the jobs of one transaction."""
        for job in group:
            job.error = failure or job.error
        if failure is None:
            self._committed(_effects(group))
        by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in group:
            if job.loop is not None:
                by_loop.setdefault(job.loop, []).append(job)
        # One wake-up for each loop, however many answers it gets.
        for loop, jobs in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._answer, jobs)
            except RuntimeError:  # the loop is closed
                self._take_back(jobs)

    def _answer(self, jobs: list[Job]) -> None:
        """Runs in the callers' loop."""
        gone = [job for job in jobs if job.cancelled()]
        for job in jobs:
            if job.future is None or job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
        self._take_back(gone)

    def _take_back(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.undo is not None and job.error is None:
                with contextlib.suppress(StoreClosedError):  # closed meanwhile: the rollout stays with its attempt
                    self._put([Job(job.undo(job.result), None, None, None)])


def _effects(group: list[Job]) -> Effects:
    effects = [job.effects for job in group if job.error is None]
    ended = [rollout_id for effect in effects for rollout_id in effect.ended]
    return Effects(sum(effect.queued for effect in effects), ended)
