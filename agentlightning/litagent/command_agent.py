"""Agents as commands: any program in any language, run for each rollout or kept warm.

`CommandAgent` gives the program its task, an endpoint for its LLM calls and a place for its reward, waits for it
without blocking the runner, and turns its end into the result of the attempt. See `command` for what the program gets
and gives. Called by the runner as any agent; calls `process`, `warm`, `event_server` and `outcome`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentlightning.emitter.span import emit_span
from agentlightning.semconv import AGL_OPERATION, LightningSpanAttributes
from agentlightning.tracer import get_active_tracer
from agentlightning.types import AttemptedRollout, ConfigError, NamedResources, SpanCoreFields

from .event_server import Door, EventServer, event_server
from .given import field, json_name, private_file, secrets, variables
from .guard import guard
from .litagent import LitAgent
from .outcome import (
    failure,
    last_words,
    redacted,
    reward_from_file,
    reward_from_line,
    reward_from_value,
)
from .process import CommandFailed, Program
from .warm import WarmPrograms


class CommandAgent(LitAgent[Any]):
    """A program as an agent. Arguments and behaviour: see `command`."""

    needs_resources = False

    def __init__(
        self,
        argv: Sequence[str] | str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        reward_from_exit: bool = False,
        warm: bool = False,
        input_map: Mapping[str, str] | None = None,
        grace: float = 3.0,
    ) -> None:
        super().__init__()
        self.argv = shlex.split(argv) if isinstance(argv, str) else [str(part) for part in argv]
        self.env = dict(env or {})
        self.cwd = None if cwd is None else str(cwd)
        self.reward_from_exit = reward_from_exit
        self.warm = warm
        self.input_map = dict(input_map or {})
        self.grace = grace
        self._pools: dict[asyncio.AbstractEventLoop, WarmPrograms] = {}
        self._check()

    def _check(self) -> None:
        if os.name != "posix":
            raise ConfigError("commands as agents need process groups, which this system lacks; use WSL or a container")
        if not self.argv:
            raise ConfigError("`command` is empty; give the program and its arguments, as in `['node', 'agent.js']`")
        if self.warm and self.reward_from_exit:
            raise ConfigError("`reward_from_exit` and `warm` exclude each other: a warm program doesn't exit")
        if self.warm and self.input_map:
            raise ConfigError("`input_map` and `warm` exclude each other: a warm program gets its tasks on stdin")
        if self.grace < 0:
            raise ConfigError(f"`grace` must be 0 or more seconds, not {self.grace}")
        for name, mapping in (("env", self.env), ("input_map", self.input_map)):
            for key, value in dict[Any, Any](mapping).items():
                if not isinstance(key, str) or not isinstance(value, str):
                    raise ConfigError(f"`{name}` has {key!r}: {value!r}; give both as text, as in {{'NAME': 'text'}}")

    def __getstate__(self) -> dict[str, Any]:
        """For runners in other processes, which start programs of their own."""
        return {**self.__dict__, "_pools": {}, "_runner": None, "_trainer": None}

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: AttemptedRollout) -> Any:
        """Do one task with the program.

        Raises:
            CommandFailed: it could not be started, failed, or gave no reward.
            KeyError: the task lacks a field that `input_map` names.
        """
        server = await event_server()
        # What a program makes of its directory is no reason to fail; the guard removes what is left.
        with tempfile.TemporaryDirectory(dir=guard().place, ignore_cleanup_errors=True) as place:
            async with server.door() as door:
                given = variables(resources, rollout, door, Path(place))
                try:
                    return await (self._ask if self.warm else self._run)(task, given, server, door)
                finally:
                    server.close(door)

    # -- a program for each rollout ---------------------------------------------------------------------------------

    async def _run(self, task: Any, given: dict[str, str], server: EventServer, door: Door) -> Any:
        given["AGL_TASK_FILE"] = private_file(Path(given["AGL_REWARD_FILE"]).with_name("task.json"), json.dumps(task))
        mapped = {name: field(task, path) for name, path in self.input_map.items()}
        began = time.monotonic()
        program = await Program.start(self.argv, env={**self._environment(), **mapped, **given}, cwd=self.cwd)
        try:
            await program.wait()
        except asyncio.CancelledError:
            server.close(door)  # what it says while it is being ended does not count
            raise
        finally:
            await program.stop(self.grace)
            self._record(program, secrets(given), time.monotonic() - began)
        return self._reward(program, given, door)

    def _reward(self, program: Program, given: dict[str, str], door: Door) -> list[SpanCoreFields] | None:
        """The reward span, or `None` if the program posted rewards itself."""
        if door.rewards:
            return None
        found = reward_from_file(Path(given["AGL_REWARD_FILE"])) or reward_from_line(program.stdout.text)
        if found is None and self.reward_from_exit:
            found = reward_from_value(float(program.exit_code == 0), "the exit code")
        if found is None:
            raise failure(program, secrets(given))
        return [found]

    # -- warm programs ----------------------------------------------------------------------------------------------

    async def _ask(self, task: Any, given: dict[str, str], server: EventServer, door: Door) -> Any:
        question = {"task": task, **{json_name(name): value for name, value in given.items()}}
        began = time.monotonic()
        pool = self._pool()
        warm = await pool.take()
        try:
            answer = await warm.ask(question, secrets(given))
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                server.close(door)
            await warm.program.stop(self.grace)
            raise
        finally:
            self._record(warm.program, secrets(given), time.monotonic() - began)
        try:
            return self._answered(answer, warm.program, given, door)
        finally:
            await pool.give_back(warm)

    def _answered(self, answer: dict[str, Any], program: Program, given: dict[str, str], door: Door) -> Any:
        if "error" in answer:
            raise CommandFailed(f"`{program.name}` failed: {answer['error']}{last_words(program, secrets(given))}")
        if door.rewards:
            return None
        found = reward_from_file(Path(given["AGL_REWARD_FILE"]))
        if found is None and "reward" in answer:
            fields = {name: value for name, value in answer.items() if name != "rollout_id"}
            found = reward_from_value(fields, "the answer")
        if found is None:
            raise CommandFailed(
                f'`{program.name}` gave no reward: answer {{"reward": 1.0}}, or POST it to `event_url`, or write it to '
                f"`reward_file`{last_words(program, secrets(given))}"
            )
        return [found]

    def _pool(self) -> WarmPrograms:
        loop = asyncio.get_running_loop()
        self._pools = {other: pool for other, pool in self._pools.items() if not other.is_closed()}
        if loop not in self._pools or self._pools[loop].closed:
            self._pools[loop] = WarmPrograms(
                lambda feed: Program.start(
                    self.argv, env={**self._environment(), "AGL_WARM": "1"}, cwd=self.cwd, stdin=True, on_stdout=feed
                ),
                self.grace,
            )
        return self._pools[loop]

    def leave_runner(self, runner: Any) -> None:
        """End the warm programs that are idle; the others end when their rollout does."""
        for loop, pool in self._pools.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(pool.close)

    # -- both -------------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        # The runner's own AGL_ variables are not the program's business, and one of them is the token of the store.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AGL_")}
        return {**inherited, **self.env}

    def _record(self, program: Program, hidden: Mapping[str, str], seconds: float) -> None:
        """Keep what it printed, and how it ended, as a span."""
        if get_active_tracer() is None:
            return
        output = LightningSpanAttributes.OPERATION_OUTPUT.value
        about = {
            LightningSpanAttributes.OPERATION_NAME.value: program.name,
            f"{LightningSpanAttributes.OPERATION_INPUT.value}.argv": self.argv,
            f"{output}.exit_code": program.exit_code,
            f"{output}.stdout": redacted(program.stdout.text, hidden),
            f"{output}.stderr": redacted(program.stderr.text, hidden),
            f"{output}.seconds": seconds,
        }
        emit_span(AGL_OPERATION, about, propagate=True)


def command(
    argv: Sequence[str] | str,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    reward_from_exit: bool = False,
    warm: bool = False,
    input_map: Mapping[str, str] | None = None,
    grace: float = 3.0,
) -> CommandAgent:
    """Make an agent of a program: `agent = agl.command(["node", "agent.js"])`.

    For each rollout it is started with these environment variables:

    - `AGL_TASK_FILE`: a file with the task as JSON, that only this user can read;
    - `OPENAI_BASE_URL`, `OPENAI_API_KEY`, `AGL_MODEL`: the first LLM among the resources, if there is one;
    - `AGL_PROMPT_FILE`: a file with the first prompt template, if there is one;
    - `AGL_RESOURCES_FILE`: a file with all resources by name as JSON;
    - `AGL_ROLLOUT_ID`, `AGL_ATTEMPT_ID`, `AGL_MODE` (`train`, `val` or `test`, if the rollout has a mode);
    - `AGL_EVENT_URL`, `AGL_KEY`: where to POST events (`Authorization: Bearer <AGL_KEY>`), see `docs/commands.md`;
    - `AGL_REWARD_FILE`: a path to write the reward to.

    Its reward is what it posts as events, else what it writes to the reward file, else a last line `{"reward": x}` on
    stdout, else with `reward_from_exit` its exit code. None of these is a failed attempt that says so. A timeout of
    the rollout, and the end of the runner, end the program and all that it started in its process group.

    A warm program stays: for each rollout it reads one JSON line from stdin (`task`, and the variables above as
    `openai_base_url`, `rollout_id`, `event_url`, `key`, `reward_file`, ...) and answers by one JSON line on stdout:
    `{"reward": x}`, `{"error": "why"}`, or `{}` if it gave its reward another way. Other lines are its log. There is
    one program for each rollout that runs at the same time; it gets the end of stdin when it shall end.

    Args:
        argv: The program and its arguments; a string is split as a shell would, but no shell runs.
        env: Variables besides those of this process.
        cwd: Its working directory; default: that of the runner.
        reward_from_exit: Exit code 0 is reward 1.0, every other 0.0, where there is no other reward.
        warm: Keep the program for the next rollout.
        input_map: Variables from fields of the task, as in `{"QUESTION": "question", "CITY": "user.city"}`.
        grace: Seconds between SIGTERM and SIGKILL when it is ended before it has finished.

    Raises:
        ConfigError: `argv` is empty, or options exclude each other.
    """
    return CommandAgent(
        argv,
        env=env,
        cwd=cwd,
        reward_from_exit=reward_from_exit,
        warm=warm,
        input_map=input_map,
        grace=grace,
    )
