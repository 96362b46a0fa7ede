"""`Run`: one call of a strategy's `execute`. The algorithm on one event loop, the runners on another, ended together.

What the runners' side is differs: bundles in a thread (`shared_memory`) or processes and their supervisor
(`client_server`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from agentlightning.store.base import LightningStore

from .base import AlgorithmBundle
from .events import ThreadingEvent

logger = logging.getLogger(__name__)


class Run:
    """The two sides of a run, and what they tell each other.

    Args:
        algorithm: The run ends when it returns.
        runners: Called with this object; has to end soon after `event` is set. `None` where runners are elsewhere.
        store: Given to the algorithm.
    """

    def __init__(
        self,
        algorithm: AlgorithmBundle,
        runners: Callable[[Run], Awaitable[None]] | None,
        store: LightningStore,
    ):
        self.event = ThreadingEvent()
        """Set when the run ends, for whatever reason."""
        self._errors: list[BaseException] = []
        self._crashed = ThreadingEvent()
        self._algorithm = algorithm
        self._runners = runners
        self._store = store

    def execute(self, timeout: float, *, main: str = "algorithm") -> None:
        """Run until the algorithm returns, then stop the runners.

        Args:
            timeout: Seconds that the other thread gets to end after this one has.
            main: Which side runs in the calling thread, `algorithm` or `runner`.

        Raises:
            RuntimeError: the other thread did not stop.
            Exception: the first one that a side raised; later ones are logged.
        """
        here, there = self._host_algorithm, self._host_runners
        if main == "runner":
            here, there = there, here
        thread = threading.Thread(target=self._guarded(there), name="agl-run", daemon=True)
        thread.start()
        try:
            here()
        except Exception as error:  # noqa: BLE001  # raised below, once the other side has stopped
            self.fail(error)
        except KeyboardInterrupt:
            logger.warning("stopping; rollouts under way are finished, or given up within %g s", timeout)
            self.crash()
            raise
        finally:
            self.event.set()
            thread.join(timeout)
        for later in [error for error in self._errors if error is not self._errors[0]]:
            logger.error("a second failure while the run was ending", exc_info=later)
        if self._errors:
            raise self._errors[0]
        if thread.is_alive():
            raise RuntimeError(
                f"the {'runners' if main == 'algorithm' else 'algorithm'} did not stop within {timeout:g} s; does it "
                "swallow `asyncio.CancelledError` or block the event loop?"
            )

    def _guarded(self, host: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            try:
                host()
            except BaseException as error:  # noqa: BLE001  # raised by `execute` in its own thread
                self.fail(error)

        return work

    def crash(self) -> None:
        """End the run now: the algorithm is cancelled, and the runners finish what is under way."""
        self.event.set()
        self._crashed.set()

    def fail(self, error: BaseException) -> None:
        """End the run now, with this error unless there was one before."""
        self._errors.append(error)
        self.crash()

    def _host_algorithm(self) -> None:
        try:
            asyncio.run(self._algorithm_or_crash())
        finally:
            self.event.set()

    def _host_runners(self) -> None:
        if self._runners is not None:
            asyncio.run(self._runners_and_after(self._runners))

    async def _algorithm_or_crash(self) -> None:
        algorithm = asyncio.ensure_future(self._algorithm(self._store, self.event))
        crash = asyncio.create_task(self._crashed.wait_async())
        try:
            await asyncio.wait({algorithm, crash}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            crash.cancel()
            if not algorithm.done():
                algorithm.cancel()
                await asyncio.wait({algorithm})
            elif not algorithm.cancelled():
                algorithm.exception()  # a `KeyboardInterrupt` has left the loop by itself: no "never retrieved"
        if not algorithm.cancelled():
            algorithm.result()

    async def _runners_and_after(self, runners: Callable[[Run], Awaitable[None]]) -> None:
        """All runners may end by themselves (`max_rollouts`): fine, while the algorithm wants no more of them."""
        await runners(self)
        stop = asyncio.create_task(self.event.wait_async())
        while not self.event.is_set():
            if (await self._store.query_rollouts(status_in=["queuing", "requeuing"], limit=1)).total:
                stop.cancel()
                raise RuntimeError(
                    "rollouts are queued and all runners have ended; raise `max_rollouts`, or leave it out"
                )
            await asyncio.wait({stop}, timeout=1.0)
        await stop


@contextlib.contextmanager
def sigint_handled_by(handler: Any) -> Generator[None, None, None]:
    """For code in an event loop that does not await: asyncio's own handler only cancels the task, which that code would
    never notice. Does nothing in other threads than the main one, which get no signals.

    Args:
        handler: What `signal.getsignal` gave before the loop ran.
    """
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    of_the_loop = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, of_the_loop)


def refuse_running_loop() -> None:
    """Raise `RuntimeError` in a thread that runs an event loop: a strategy needs loops of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "this thread runs an event loop already (a notebook, or an async function); "
        "call it in a thread, as in `await asyncio.to_thread(trainer.fit, agent, train_dataset)`"
    )
