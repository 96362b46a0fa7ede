"""Threads for agents: exclusive, used again, not for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from agentlightning.runner import threads
from agentlightning.runner.threads import run_in_thread


def test_work_that_hangs_does_not_keep_other_work_waiting():
    release, done = threading.Event(), [threading.Event() for _ in range(4)]
    for _ in range(3):
        run_in_thread(release.wait)  # type: ignore[arg-type]
    for event in done:
        run_in_thread(event.set)
    try:
        assert all(event.wait(30) for event in done)
    finally:
        release.set()


def test_a_thread_is_used_again_and_ends_when_it_is_idle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threads, "IDLE_S", 0.05)
    seen: list[threading.Thread] = []
    for _ in range(3):
        done = threading.Event()

        def work(done: threading.Event = done) -> None:
            seen.append(threading.current_thread())
            done.set()

        run_in_thread(work)
        assert done.wait(30)
    for thread in seen:
        thread.join(30)
        assert not thread.is_alive()


def test_many_at_once_each_run_once():
    lock, counts, all_done = threading.Lock(), [0] * 500, threading.Event()

    def work(index: int) -> None:
        with lock:
            counts[index] += 1
            if sum(counts) == len(counts):
                all_done.set()

    for index in range(len(counts)):
        run_in_thread(lambda index=index: work(index))
    assert all_done.wait(30)
    assert counts == [1] * 500


FORKS = """
import os, threading
from agentlightning.runner.threads import run_in_thread, _idle

done = threading.Event()
run_in_thread(done.set)
while not _idle:  # the thread is about to wait for more
    pass
pid = os.fork()
if pid == 0:
    again = threading.Event()
    run_in_thread(again.set)
    os._exit(0 if again.wait(10) else 1)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_threads_of_its_own():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], check=True, timeout=60)
