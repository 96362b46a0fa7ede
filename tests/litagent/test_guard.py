"""The guard: what is left of a process that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentlightning.litagent.guard import Guard

from .programs import alive, gone, written


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    """Process groups that sleep."""
    found = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(3)]
    yield [process.pid for process in found]
    for process in found:
        process.kill()
        process.wait()


def shell_of(of: Guard) -> Any:
    return of._shell  # pyright: ignore[reportPrivateUsage]


def test_groups_end_with_the_pipe_and_forgotten_ones_do_not(sleepers: list[int]) -> None:
    first, second, forgotten = sleepers
    of = Guard()
    for group in (forgotten, first, second):
        of.watch(group)
    of.forget(forgotten)
    of.forget(forgotten)
    place = Path(of.place)
    (place / "secret").write_text("x")
    assert place.stat().st_mode & 0o777 == 0o700
    shell_of(of).stdin.close()
    assert gone(first)
    assert gone(second)
    assert shell_of(of).wait(60) is not None
    assert alive(forgotten)
    assert not place.exists()


def test_a_guard_that_was_killed_is_replaced(sleepers: list[int]) -> None:
    first, second, third = sleepers
    of = Guard()
    of.watch(first)
    place = of.place
    shell_of(of).kill()
    shell_of(of).wait()
    of.watch(second)
    of.watch(third)
    assert of.place == place
    shell_of(of).stdin.close()
    assert all(gone(pid) for pid in sleepers)


def test_a_group_that_does_not_listen_is_killed() -> None:
    deaf = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert deaf.stdout is not None
    assert deaf.stdout.readline() == b"ready\n"
    of = Guard()
    of.watch(deaf.pid)
    shell_of(of).stdin.close()
    assert deaf.wait(60) == -signal.SIGKILL


FORKED = """
import os
from agentlightning.litagent.guard import guard
here = guard()
assert guard() is here
pid = os.fork()
if pid == 0:
    os._exit(0 if guard() is not here else 1)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_fork_has_its_own() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)


KILLED = """
import os, signal
from agentlightning.litagent.guard import guard
open("place", "w").write(guard().place + "\\n")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_files_do_not_outlive_a_killed_process(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    place = Path(written(tmp_path / "place").strip())
    while place.exists():
        pass
