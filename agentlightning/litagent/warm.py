"""`WarmPrograms`: programs that stay and do one rollout after another, a JSON line in and a JSON line out for each.

One for each rollout that runs at the same time. They end with the event loop, or when the runner lets go of the agent.
Called by `command_agent`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .outcome import json_object, last_words
from .process import CommandFailed, Program, stop_all

LINE_BYTES = 2**20
"""Longest line of an answer."""


class WarmProgram:
    """A program and what it answers. Made by `WarmPrograms.take`."""

    def __init__(self) -> None:
        self.program: Program
        self._line = bytearray()
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._unasked = False

    @property
    def usable(self) -> bool:
        """Whether it can be given another rollout."""
        return self.program.running and not self._unasked

    async def ask(self, question: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
        """Its answer to `question`.

        Raises:
            CommandFailed: it ended before it answered, or answered for another rollout.
        """
        self.program.stdout.clear()
        self.program.stderr.clear()
        answer = self._answer = asyncio.get_running_loop().create_future()
        exited = asyncio.ensure_future(self.program.wait())
        try:
            self.program.send(json.dumps(question).encode() + b"\n")
            await asyncio.wait({answer, exited}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._answer = None
            exited.cancel()
        if not answer.done():
            await self.program.stop(0)  # and read what it printed last
            what = f"`{self.program.name}` {self.program.how_it_ended()} before it answered"
            raise CommandFailed(f"{what}{last_words(self.program, secrets)}")
        found = answer.result()
        if found.get("rollout_id", question["rollout_id"]) != question["rollout_id"]:
            self._unasked = True
            raise CommandFailed(
                f"`{self.program.name}` answered for the rollout {found['rollout_id']!r} when it was asked for "
                f"{question['rollout_id']!r}; it must answer each line once, in order"
            )
        return found

    def feed(self, data: bytes) -> None:
        """Take what the program prints: lines that are no answers are its log."""
        self._line += data
        *lines, rest = self._line.split(b"\n")
        self._line = bytearray(rest)
        for line in lines:
            found = json_object(bytes(line))
            if found is not None and (not found or "reward" in found or "error" in found):
                self._answered(found)
        if len(self._line) > LINE_BYTES:
            self._answered({"error": f"printed a line of more than {LINE_BYTES} bytes"})
            self._unasked = True

    def _answered(self, found: dict[str, Any]) -> None:
        if self._answer is None or self._answer.done():
            self._unasked = True  # answers and rollouts are out of step: no more of it
        else:
            self._answer.set_result(found)


class WarmPrograms:
    """The warm programs of one agent and one event loop.

    Args:
        start: Starts one, which gives what it prints to the function that it is called with.
        grace: Seconds that a program gets to end when its standard input closes, and again at SIGTERM.
    """

    def __init__(self, start: Callable[[Callable[[bytes], None]], Awaitable[Program]], grace: float) -> None:
        self._start = start
        self._grace = grace
        self._idle: list[WarmProgram] = []
        self._keeper = asyncio.create_task(self._keep(), name="agl-warm-programs")

    @property
    def closed(self) -> bool:
        """Whether the programs were ended."""
        return self._keeper.done()

    async def take(self) -> WarmProgram:
        """An idle program, or a new one. Raises `CommandFailed` if it can't be started."""
        while self._idle:
            warm = self._idle.pop()
            if warm.usable:
                return warm
            await warm.program.stop(self._grace)
        warm = WarmProgram()
        warm.program = await self._start(warm.feed)
        return warm

    async def give_back(self, warm: WarmProgram) -> None:
        """It may be used again; it ends if it can't, or if all have been ended."""
        if warm.usable and not self._keeper.done() and not self._keeper.cancelling():
            self._idle.append(warm)
        else:
            await stop_all([warm.program], self._grace, close_stdin=True)

    def close(self) -> None:
        """End the idle programs, in the background; the others when they are given back."""
        self._keeper.cancel()

    async def _keep(self) -> None:
        # A task, because an event loop that ends cancels its tasks and waits for them.
        try:
            await asyncio.Event().wait()
        finally:
            idle, self._idle = self._idle, []
            await stop_all([warm.program for warm in idle], self._grace, close_stdin=True)
