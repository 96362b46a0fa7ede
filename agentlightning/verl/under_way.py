"""A batch of rollouts that runs in another thread: to wait for with its progress shown, or to be given up.

Made by `stepped.SteppedBatches`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from agentlightning.report.progress import track
from agentlightning.utils.loop_thread import LoopThread

if TYPE_CHECKING:
    from .sample import Sample

OnProgress = Callable[[int, int], None]
"""Called with (finished, all)."""


class Batch:
    """A batch under way, or finished.

    Args:
        thread: Runs it.
        run: Makes the coroutine that runs its rollouts.
        count: How many there are.
        is_train: What they are for.
    """

    def __init__(
        self,
        thread: LoopThread,
        run: Callable[[OnProgress], Coroutine[Any, Any, list[Sample]]],
        count: int,
        *,
        is_train: bool,
    ) -> None:
        self._thread = thread
        self._count = count
        self._is_train = is_train
        self._finished: SimpleQueue[int | None] = SimpleQueue()
        """How many rollouts have ended, again and again; `None` when the batch is over."""
        self._samples: list[Sample] | None = None
        self._task = thread.run(self._begin(run))

    async def _begin(
        self, run: Callable[[OnProgress], Coroutine[Any, Any, list[Sample]]]
    ) -> asyncio.Task[list[Sample]]:
        task = asyncio.create_task(run(lambda finished, _: self._finished.put(finished)))
        task.add_done_callback(lambda _: self._finished.put(None))
        return task

    def wait(self, verbose: bool) -> None:
        """Return when all rollouts have ended; raise what went wrong."""
        if self._samples is not None:
            return
        each: Iterable[None] = self._each()
        for _ in track(each, "rollouts", total=self._count) if verbose else each:
            pass
        if self._task.cancelled():
            raise RuntimeError("the batch was cleared before all of its rollouts had ended")
        self._samples = self._task.result()

    def _each(self) -> Generator[None]:
        """Once for every rollout that ends."""
        seen = 0
        while (finished := self._finished.get()) is not None:
            yield from [None] * (finished - seen)
            seen = finished
        self._finished.put(None)  # for whoever waits once more

    def samples(self, *, is_train: bool) -> list[Sample]:
        """The finished rollouts of a batch that is for this."""
        if is_train is not self._is_train:
            use = "training" if self._is_train else "validation"
            raise RuntimeError(f"the batch is for {use}; set it up with `is_train={is_train}`")
        if self._samples is None:
            raise RuntimeError("the batch is not finished; call `run_until_all_finished` first")
        return self._samples

    def give_up(self) -> None:
        """Cancel it, unless it is over."""
        if not self._task.done():
            self._thread.run(_cancelled(self._task))


async def _cancelled(task: asyncio.Task[list[Sample]]) -> None:
    task.cancel()
    await asyncio.wait({task})
