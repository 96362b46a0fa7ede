"""`Host`: what a runner can tell the process that it was started in, so that a hung agent is no dead end.

A runner process installs one (see `child`), runners ask for it. In an ordinary program there is none: `host()` is
`None`, and an agent that hangs in a thread is only abandoned.
"""

from __future__ import annotations

from typing import Protocol


class Host(Protocol):
    """The process around a runner, which its supervisor can kill and replace. Called on the runner's event loop."""

    worker_name: str
    """Under which the store knows the runner; unique across machines and restarts."""

    def due(self, attempt_id: str, seconds: float) -> None:
        """If nothing more is told of this attempt within so many seconds, its process hangs and is killed."""
        ...

    def ended(self, attempt_id: str) -> None:
        """The final status of an attempt is stored, or it does not count any more."""
        ...

    def abandoned(self) -> None:
        """Code of an agent goes on though nobody wants its result: take no more rollouts, and be replaced."""
        ...


_host: Host | None = None


def host() -> Host | None:
    """The host of this process, if it is a runner process."""
    return _host


def install_host(new: Host | None) -> None:
    """Make `new` the host of this process."""
    global _host
    _host = new
