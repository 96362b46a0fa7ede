"""`run_in_thread`: a function in a daemon thread that does nothing else meanwhile. Called by `calls`.

Threads are used again: to start one means to wait until it runs, 0.1 ms and more on a busy machine, and the event loop
would wait too. Unlike a pool, nothing is lost with a thread that never comes back.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

IDLE_S = 1.0
"""How long a thread waits for more to do before it ends."""

_lock = threading.Lock()
_idle: list[_AgentThread] = []


def _forget_threads() -> None:
    global _lock
    _lock = threading.Lock()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)  # a forked process has none of these threads


def run_in_thread(work: Callable[[], None]) -> None:
    """Begin `work`, which must not raise, in a thread of its own."""
    with _lock:
        thread = _idle.pop() if _idle else None
    if thread is not None:
        thread.jobs.put(work)
    else:
        _AgentThread(work).start()


class _AgentThread(threading.Thread):
    def __init__(self, first: Callable[[], None]):
        super().__init__(name="agl-agent", daemon=True)
        self.jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.jobs.put(first)

    def run(self) -> None:
        while (work := self._next()) is not None:
            work()
            del work  # what it holds need not wait for the next one
            with _lock:
                _idle.append(self)

    def _next(self) -> Callable[[], None] | None:
        try:
            return self.jobs.get(timeout=IDLE_S)
        except queue.Empty:
            with _lock:
                if self in _idle:
                    _idle.remove(self)
                    return None
            return self.jobs.get()  # taken a moment ago: the job is on its way
