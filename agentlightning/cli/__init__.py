"""`agl`: the command line. `main` is the console script; each command is one file beside this one."""

from __future__ import annotations

import sys

from agentlightning.types import AgentLightningError

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 done, 1 the command says no, 2 wrong input, 130 stopped by Ctrl-C.

    An error that this package raises on purpose becomes one line on stderr. Any other exception is a bug and keeps
    its traceback.
    """
    from .app import app

    try:
        app()
    except AgentLightningError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
