"""What a runner process is given, and how it travels: pickled by cloudpickle, through the child's stdin.

`supervisor` writes it, `child` reads it. The pipe is between a parent and the child that it started itself; nothing
else is ever unpickled.
"""

from __future__ import annotations

import pickle
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from agentlightning.types import ConfigError

_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True)
class Job:
    """One runner process's work, in two parts: the second needs the first to be unpickled."""

    surroundings: dict[str, Any]
    """Plain data: `sys_path`, `argv`, `worker_name`, `worker_number`, `log_level`."""
    bundle: bytes
    """The pickled runner bundle."""
    store: bytes
    """The pickled store; a server becomes a client of itself."""

    def to_bytes(self) -> bytes:
        """As it goes through the pipe."""
        parts = (pickle.dumps(self.surroundings), self.bundle, self.store)
        return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def read_part(pipe: IO[bytes]) -> bytes:
    """The next part of a job, still pickled. Raises `EOFError` if the parent is gone."""
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("the parent is gone")
    return data


def surroundings(worker_name: str, worker_number: int) -> dict[str, Any]:
    """What a child has to have in common with this process so that it finds the same modules."""
    import logging

    return {
        "sys_path": list(sys.path),
        "argv": list(sys.argv),
        "log_level": logging.getLogger().level,
        "worker_name": worker_name,
        "worker_number": worker_number,
    }


def pickled(what: str, value: Any, parts: Mapping[str, Any] | None = None) -> bytes:
    """`value` for another process: functions and classes of scripts and closures go by value.

    Args:
        what: Names `value` in the error.
        value: Anything.
        parts: Parts of `value` by name, so that the error can name the one at fault.

    Raises:
        ConfigError: it can't be pickled.
    """
    import cloudpickle

    try:
        return cloudpickle.dumps(value)
    except Exception as error:
        for name, part in (parts or {}).items():
            pickled(name, part)  # raises for the part at fault
        raise ConfigError(
            f"{what} ({_named(value)}) can't be handed to a runner process: {_reason(error)}. Make what can't be "
            "copied (clients, locks, files, models) inside the agent when it is first used, or put the agent into a "
            "module of its own, so that it is imported there; or run in this process, with `strategy='shm'`"
        ) from error


def _named(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or type(value).__qualname__
    return f"`{getattr(value, '__module__', type(value).__module__)}.{name}`"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
