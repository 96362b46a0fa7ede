"""`ChildProcess`: the parent's end of one runner process. Made by `supervisor`; the other end is `child`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable

CHUNK = 1 << 16
LAST_LINES = 100
"""Lines of stderr that are kept for error messages: a crash in native code lists every thread."""


class ChildProcess:
    """One running child.

    Args:
        worker_name: Under which the store knows its runner.
        on_finished: Called when it reports that an attempt has ended.
    """

    def __init__(self, worker_name: str, on_finished: Callable[[], None]):
        self.worker_name = worker_name
        self.killed_as_hung = False
        self.finished = False
        """Whether it ended its work by itself; an exit code of 0 does not say so, as agents may exit too."""
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._on_finished = on_finished
        self._has_job = False
        self._ready = asyncio.Event()
        """Set when it has loaded its job, or ended."""
        self._deadlines: dict[str, float] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the interpreter; it waits for its job."""
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentlightning.execution.child"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read_reports(process.stdout)),
            asyncio.create_task(self._pass_on(process.stderr)),
        ]

    async def assign(self, job: bytes) -> None:
        """Give it its job, once."""
        self._has_job = True
        await self._send(job)

    async def wait_ready(self, timeout: float) -> None:
        """Return when it has loaded its job, when it has ended, or after `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), timeout)

    def stop(self) -> None:
        """Have it finish what is under way and end; at once if it has no job yet."""
        if not self._has_job:
            self.cut_off()
        elif self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(b"stop\n")  # without waiting: it may stand still

    async def _send(self, data: bytes) -> None:
        """Write to its stdin; nothing happens if it has ended."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # it has ended, and `wait` says how
            self._process.stdin.write(data)
            await self._process.stdin.drain()

    async def wait(self) -> int:
        """Its exit code, once it has ended and all that it wrote has been read."""
        assert self._process is not None
        code = await self._process.wait()
        # A program that an agent started may live on and hold the pipes.
        _, open_ = await asyncio.wait(self._readers, timeout=0.5)
        for reader in open_:
            reader.cancel()
        return code

    def cut_off(self) -> None:
        """Close its stdin: it stops at once."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        """End it without its help."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def postpone(self, seconds: float) -> None:
        """Move all deadlines: this process itself was stopped for that long, and reports wait to be read."""
        self._deadlines = {attempt_id: at + seconds for attempt_id, at in self._deadlines.items()}

    async def kill_if_hung(self) -> None:
        """Kill it if an attempt is well beyond its deadline: its event loop, or the whole interpreter, is stuck."""
        now = time.monotonic()
        if self.killed_as_hung or self._process is None or all(now < at for at in self._deadlines.values()):
            return
        self.killed_as_hung = True
        if hasattr(signal, "SIGABRT") and os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGABRT)  # `faulthandler` writes where it hangs, even without the GIL
            await asyncio.sleep(0.2)
        self.kill()

    async def _read_reports(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            match line.decode().split():
                case ["ready"]:
                    self._ready.set()
                case ["finished"]:
                    self.finished = True
                case ["due", attempt_id, seconds]:
                    self._deadlines[attempt_id] = time.monotonic() + float(seconds)
                case ["ended", attempt_id]:
                    self._deadlines.pop(attempt_id, None)
                    self._on_finished()
                case _:
                    raise AssertionError(f"a runner process reported {line!r}")
        self._ready.set()

    async def _pass_on(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(CHUNK):
            head, newline, rest = (rest + chunk).rpartition(b"\n")
            if not newline and (len(rest) > CHUNK or b"\r" in rest):  # a progress bar, or no text at all
                head, rest = rest, b""
            self._show(head + newline)
        self._show(rest)

    def _show(self, data: bytes) -> None:
        if data:
            text = data.decode(errors="replace")
            self.last_lines.extend(text.splitlines())
            sys.stderr.write(text)
            sys.stderr.flush()
