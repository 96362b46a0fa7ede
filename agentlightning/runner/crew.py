"""`Crew`: the attempts that one runner works on, and how many more it may begin. Called by `agent_runner`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

WRITING = 8
"""How many attempts beyond the places may be writing their results: more would hide a slow store."""


class Crew:
    """Tasks of one event loop, of which so many at a time hold a place.

    Args:
        places: How many agents run at once.
    """

    def __init__(self, places: int):
        self.halted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when nothing new shall begin: `halt` was called, or a task has failed."""
        self._free = places
        self._most = places + WRITING
        self._tasks: set[asyncio.Task[Any]] = set()
        self._error: BaseException | None = None
        self._changed: asyncio.Future[None] | None = None

    def halt(self) -> None:
        """Nothing new shall begin."""
        if not self.halted.done():
            self.halted.set_result(None)

    def start(self, work: Callable[[Callable[[], None]], Coroutine[Any, Any, Any]]) -> None:
        """Begin `work(give_back)`, which holds a place until it calls `give_back` or ends."""
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._free += 1
                self._wake()

        def ended(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            give_back()
            if not task.cancelled() and (error := task.exception()) is not None:
                self._error = self._error or error
                self.halt()
            self._wake()

        self._free -= 1
        task = asyncio.create_task(work(give_back))
        self._tasks.add(task)
        task.add_done_callback(ended)

    async def free_places(self) -> int:
        """How many may begin, at least 1, as soon as there is room; 0 once it is halted."""
        while not self.halted.done():
            room = min(self._free, self._most - len(self._tasks))
            if room > 0:
                return room
            self._changed = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._changed, self.halted}, return_when=asyncio.FIRST_COMPLETED)
        return 0

    async def finish(self) -> None:
        """Wait for all tasks. Raises what the first failed one raised, without waiting for the others."""
        while self._tasks and self._error is None:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # the callbacks of those that are done
        if self._error is not None:
            raise self._error

    async def dismiss(self) -> None:
        """Cancel what still runs and wait for its end."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
