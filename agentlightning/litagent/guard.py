"""`Guard`: sees to it that no program outlives the process that started it, even one that is killed with `kill -9`.

A process that is killed can't clean up, so a helper does: a shell of a few lines that learns the process groups over a
pipe. The pipe closes when this process ends, whichever way; the shell then ends the groups that are left, and removes
the programs' files. (Linux' "parent death signal" is no way: it hangs on the *thread* that started the program, and
grandchildren don't get it.)

A group is a program and all that it starts; what makes a session of its own (a daemon, `setsid`) leaves it and is not
found. Called by `process`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from functools import lru_cache

KILL_AFTER_S = 3
"""Seconds that the groups of a dead process get between SIGTERM and SIGKILL."""

_SCRIPT = """
groups=" "
while read -r sign group; do
    case $sign in
        +) groups="$groups$group " ;;
        -) groups="${groups%% $group *} ${groups#* $group }" ;;
    esac
done
left=
for group in $groups; do kill -s TERM -- "-$group" 2>/dev/null && left="$left $group"; done
[ -n "$left" ] && sleep "$1"
for group in $left; do kill -s KILL -- "-$group" 2>/dev/null; done
rm -rf -- "$2"
"""


class Guard:
    """The helper of this process. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._place: str | None = None
        self._shell: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        """A directory that only this user can read; gone once this process is."""
        with self._lock:
            if self._place is None:
                self._start()
            assert self._place is not None
            return self._place

    def watch(self, group: int) -> None:
        """End the process group `group` once this process is gone."""
        with self._lock:
            self._groups.add(group)
            self._tell(f"+ {group}\n")

    def forget(self, group: int) -> None:
        """The group has ended: its number may come to belong to others."""
        with self._lock:
            if group in self._groups:
                self._groups.remove(group)
                self._tell(f"- {group}\n")

    def _tell(self, line: str) -> None:
        if self._shell is None:
            return self._start()
        try:
            return self._write(line)
        except BrokenPipeError:  # somebody killed the shell
            return self._start()

    def _start(self) -> None:
        """A shell that knows all groups."""
        self._place = self._place or tempfile.mkdtemp(prefix="agl-")
        # In a session of its own: Ctrl-C in the terminal must not reach it. Unbuffered: each line goes at once.
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "agl-guard", str(KILL_AFTER_S), self._place],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
            cwd="/",
        )
        self._write("".join(f"+ {group}\n" for group in self._groups))

    def _write(self, text: str) -> None:
        assert self._shell is not None
        assert self._shell.stdin is not None
        self._shell.stdin.write(text.encode())


def guard() -> Guard:
    """The one of this process; a forked process gets its own."""
    return _guard_of(os.getpid())


@lru_cache(maxsize=1)
def _guard_of(pid: int) -> Guard:
    return Guard()
