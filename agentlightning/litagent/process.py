"""`Program`: another program as a process group that ends when it shall, and the last of what it printed.

A program begins as a shell that waits for a line on its standard input and then becomes the program. It gets the line
once the guard knows its group, so nothing is left behind whenever this process is killed: a shell without its line sees
the end of its input and exits, and the guard ends the others.

Called by `command_agent` and `warm`. Nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from .guard import guard

TAIL_BYTES = 16_384
"""How much of the end of each stream is kept."""
DRAIN_S = 1.0
"""How long to wait for the last output of a program that has ended. Only what left the process group keeps a stream
open so long."""
_GATE = 'read -r AGL_GATE || exit 1; exec "$@"'
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
"""Variables that every shell hands on; some drop others, such as `npm.registry`."""


class CommandFailed(RuntimeError):
    """A program could not be started, failed, or gave no reward."""


class Tail:
    """The last `TAIL_BYTES` bytes of a stream."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._dropped = 0

    def add(self, data: bytes) -> None:
        """Take what was printed."""
        self._kept += data
        if len(self._kept) > 2 * TAIL_BYTES:
            self._trim()

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._dropped = 0

    @property
    def text(self) -> str:
        """What is kept; the first line says so if it is not everything."""
        self._trim()
        text = self._kept.decode(errors="replace")
        return f"[{self._dropped} bytes before this are not kept]\n{text}" if self._dropped else text

    def _trim(self) -> None:
        surplus = max(0, len(self._kept) - TAIL_BYTES)
        del self._kept[:surplus]
        self._dropped += surplus


class Program(asyncio.SubprocessProtocol):
    """A running program. Made by `start`.

    Args:
        name: What messages call it.
        on_stdout: Gets what the program prints, besides `stdout`.
    """

    def __init__(self, name: str, on_stdout: Callable[[bytes], None] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.stdout = Tail()
        self.stderr = Tail()
        self._on_stdout = on_stdout
        self._transport: asyncio.SubprocessTransport
        self.exited: asyncio.Future[None] = loop.create_future()
        """Done when the program itself has ended; what it started may go on."""
        self._closed: dict[int, asyncio.Future[None]] = {1: loop.create_future(), 2: loop.create_future()}
        self._stopped = False

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        stdin: bool = False,
        on_stdout: Callable[[bytes], None] | None = None,
    ) -> Program:
        """Start a program in a session, and so a process group, of its own.

        Args:
            argv: The program and its arguments; no shell looks at them.
            env: Its whole environment.
            cwd: Its working directory; `None`: that of this process.
            stdin: Whether `send` will be used; else its standard input is empty.
            on_stdout: Gets what it prints.

        Raises:
            CommandFailed: there is no such program or directory, or it may not be executed.
        """
        try:
            program = await cls._start_gated(argv, dict(env), cwd, stdin, on_stdout)
        except (OSError, ValueError) as error:
            where = f" in `{cwd}`" if cwd is not None else ""
            raise CommandFailed(f"`{argv[0]}` can't be started{where}: {error}") from error
        guard().watch(program.pid)
        program.send(b"\n")
        if not stdin:
            program.close_stdin()
        return program

    @classmethod
    async def _start_gated(
        cls,
        argv: Sequence[str],
        env: dict[str, str],
        cwd: str | None,
        stdin: bool,
        on_stdout: Callable[[bytes], None] | None,
    ) -> Program:
        """A shell that becomes the program when it gets a line."""
        _check_executable(argv[0], env, cwd)
        loop = asyncio.get_running_loop()
        gate = _GATE if stdin else _GATE + " </dev/null"
        gated = ("/bin/sh", "-c", gate, "agl-gate", *_past_the_shell(env), *argv)
        starting = asyncio.ensure_future(
            loop.subprocess_exec(
                lambda: cls(argv[0], on_stdout),
                *gated,
                stdin=asyncio.subprocess.PIPE,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        )
        try:
            return (await asyncio.shield(starting))[1]
        except asyncio.CancelledError:
            (outcome,) = await asyncio.gather(starting, return_exceptions=True)  # asyncio would kill half of it
            if not isinstance(outcome, BaseException):
                await outcome[1].stop(0)
            raise

    @property
    def pid(self) -> int:
        """Process id, and the id of the process group."""
        return self._transport.get_pid()

    @property
    def running(self) -> bool:
        """Whether the program itself has not ended."""
        return not self.exited.done()

    @property
    def exit_code(self) -> int | None:
        """`None` while it runs; negative: the signal that ended it."""
        return self._transport.get_returncode()

    def how_it_ended(self) -> str:
        """The exit code in words, for messages."""
        code = self.exit_code
        if code is None:
            return "has not ended"
        if code >= 0:
            return f"exited with {code}"
        with contextlib.suppress(ValueError):  # a real-time signal has a number only
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"

    def send(self, data: bytes) -> None:
        """Write to its standard input, now or as soon as it reads."""
        cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0)).write(data)

    async def wait(self) -> None:
        """Return when the program itself has ended."""
        await asyncio.wait({self.exited})

    async def stop(self, grace: float) -> None:
        """End the program if it runs, and what it has left behind in any case. See `stop_all`."""
        await stop_all([self], grace)

    # -- for `stop_all` ---------------------------------------------------------------------------------------------

    @property
    def ends(self) -> list[asyncio.Future[None]]:
        """Done when it has ended and its streams are closed."""
        return [self.exited, *self._closed.values()]

    def begin_stop(self) -> bool:
        """False if somebody has begun before: its number may be that of others by now."""
        first, self._stopped = not self._stopped, True
        return first

    def close_stdin(self) -> None:
        """Let it see the end of its standard input."""
        stdin = self._transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()

    def release(self) -> None:
        """It is gone."""
        guard().forget(self.pid)
        self._transport.close()

    def send_signal(self, number: signal.Signals) -> None:
        """To its whole group."""
        # No group of this number: all have ended. Not permitted: macOS says so of a group that has ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    # -- what asyncio calls -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The shell runs."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """It printed something."""
        (self.stdout if fd == 1 else self.stderr).add(data)
        if fd == 1 and self._on_stdout is not None:
            self._on_stdout(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """It, and all that inherited the stream, closed it."""
        if fd in self._closed and not self._closed[fd].done():
            self._closed[fd].set_result(None)

    def process_exited(self) -> None:
        """The program itself has ended; others may still hold its streams."""
        if not self.exited.done():
            self.exited.set_result(None)


def _check_executable(name: str, env: Mapping[str, str], cwd: str | None) -> None:
    """Raise `OSError` for what the system would not execute: the shell would only exit with a code of its own."""
    if os.sep not in name:
        if shutil.which(name, path=env.get("PATH", os.defpath)) is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such program on `PATH`")
        return
    path = os.path.join(cwd or "", name)
    os.stat(path)
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def _past_the_shell(env: Mapping[str, str]) -> list[str]:
    """The begin of a command that sets again what a shell may drop. Others can see it for a moment, as any command."""
    odd = [f"{name}={value}" for name, value in env.items() if not _SHELL_NAME.fullmatch(name)]
    return ["/usr/bin/env", *odd] if odd else []


async def stop_all(programs: Sequence[Program], grace: float, *, close_stdin: bool = False) -> None:
    """End programs, at the same time. Twice does no harm.

    Being cancelled meanwhile does not shorten the grace: the `CancelledError` comes when all have ended. No task is
    made: one that an event loop cancels before its first step would do nothing.

    Args:
        programs: May have ended by themselves; what they have left behind ends then.
        grace: Seconds between SIGTERM and SIGKILL to the whole group of each.
        close_stdin: Close their standard input first, and give them `grace` seconds to end by themselves.
    """
    ours = [program for program in programs if program.begin_stop()]
    cancelled = False
    if close_stdin:
        for program in ours:
            program.close_stdin()
        cancelled |= await _settled([program.exited for program in ours], grace)
    for program in ours:
        if program.running:
            program.send_signal(signal.SIGTERM)
    cancelled |= await _settled([program.exited for program in ours], grace)
    for program in ours:
        program.send_signal(signal.SIGKILL)
    cancelled |= await _settled([future for program in ours for future in program.ends], DRAIN_S)
    for program in ours:
        program.release()
    if cancelled:
        raise asyncio.CancelledError


async def _settled(futures: Sequence[asyncio.Future[None]], timeout: float) -> bool:
    """Wait for all of them, or for `timeout` seconds, whoever cancels; whether somebody did."""
    loop, cancelled = asyncio.get_running_loop(), False
    deadline = loop.time() + timeout
    while (left := deadline - loop.time()) > 0 and not all(future.done() for future in futures):
        try:
            await asyncio.wait(futures, timeout=left)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled
