"""`collector_paused`: for code that makes thousands of objects and drops them again. Used by the gateway's backends."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def collector_paused() -> Generator[None]:
    """Run the body without cyclic garbage collection, unless that is off anyway. The body must not await.

    The log-probs of one answer are a thousand dictionaries and lists. The collector would take those that it meets for
    objects that stay, and soon go through everything in the process for it: that is half of a call's CPU time.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
