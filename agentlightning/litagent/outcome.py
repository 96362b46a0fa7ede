"""What the end of a program means: where its reward is, or why there is none. Called by `command_agent`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from agentlightning.emitter import emit_reward
from agentlightning.types import SpanCoreFields

from .events import primary_of
from .process import CommandFailed, Program

REWARD_FILE_BYTES: Final = 65_536
ERROR_LINES: Final = 20
"""How many lines of stderr an error message shows."""

WAYS: Final = (
    'POST it to AGL_EVENT_URL, write it to AGL_REWARD_FILE, print a last line like {"reward": 1.0}, '
    "or use `reward_from_exit=True`"
)


def reward_from_value(value: Any, source: str) -> SpanCoreFields:
    """The reward span of a JSON value.

    Args:
        value: A number; `{"reward": x}` with a number or an object as `x`; or an object with a number for each
            dimension. `primary_key` in an object names the dimension that training uses: default is `reward`, else
            the first one.
        source: Where it came from, for the message.

    Raises:
        CommandFailed: it is nothing of that.
    """
    primary: Any = None
    try:
        if isinstance(value, dict):
            fields = dict(cast("dict[str, Any]", value))
            primary = fields.pop("primary_key", None)
            value = fields["reward"] if set(fields) == {"reward"} else fields
        if isinstance(value, dict):
            dimensions = cast("dict[str, Any]", value)
            return emit_reward(dimensions, primary_key=primary or primary_of(dimensions), propagate=False)
        return emit_reward(value, propagate=False)
    except (TypeError, ValueError) as error:
        raise CommandFailed(f'{source} holds no reward: {error}; give a number, or {{"reward": number}}') from error


def reward_from_file(path: Path) -> SpanCoreFields | None:
    """The reward that a program wrote to its reward file; `None` if it wrote nothing.

    Raises:
        CommandFailed: the file holds something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(REWARD_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandFailed(f"the reward file can't be read: {error}") from error
    if not content.strip():
        return None
    try:
        value = json.loads(content)
    except ValueError as error:
        text = content[:100].decode(errors="replace")
        raise CommandFailed(f'the reward file holds {text!r}; give a number, or {{"reward": number}}') from error
    return reward_from_value(value, "the reward file")


def reward_from_line(stdout: str) -> SpanCoreFields | None:
    """The reward in the last line that is not blank, if that is a JSON object with a `reward`.

    Raises:
        CommandFailed: its `reward` is none.
    """
    lines = stdout.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    value = json_object(last)
    if value is None or "reward" not in value:
        return None
    return reward_from_value(value, "the last line of stdout")


def json_object(line: str | bytes) -> dict[str, Any] | None:
    """The JSON object that a line is, or `None`."""
    if line.strip()[:1] not in ("{", b"{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def failure(program: Program, secrets: Mapping[str, str]) -> CommandFailed:
    """Why a program that has ended counts as failed: it gave no reward."""
    ended = program.how_it_ended()
    why = f"gave no reward: {WAYS}" if program.exit_code == 0 else f"{ended} and gave no reward"
    return CommandFailed(f"`{program.name}` {why}{last_words(program, secrets)}")


def last_words(program: Program, secrets: Mapping[str, str]) -> str:
    """The last lines of its stderr, for the end of a message."""
    lines = redacted(program.stderr.text, secrets).rstrip().splitlines()
    if not lines:
        return "; it wrote nothing to stderr"
    return "; the end of its stderr:\n" + "\n".join(lines[-ERROR_LINES:])


def redacted(text: str, secrets: Mapping[str, str]) -> str:
    """`text` without the values of `secrets`; each is replaced by its name."""
    for name, value in secrets.items():
        text = text.replace(value, f"<{name}>")
    return text
