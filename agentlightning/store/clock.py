"""`Clock`: the time of a store. Homes read it; nothing that a store decides depends on the wall clock.

The wall clock may jump: somebody sets it, NTP corrects it, a machine boots with a wrong one. A jump of an hour would
end every attempt at once, or none for an hour. So the wall clock is read once, when the store is opened, and time goes
on from there by a clock that nobody can set.
"""

from __future__ import annotations

import time

_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
"""Linux' clock that goes on while the machine sleeps; `time.monotonic` may stand still then."""


class Clock:
    """Seconds since the epoch.

    Args:
        wall: What time it is now; `None`: what this machine's wall clock says. Several processes that share a database
            take the database's time, so that they agree.
    """

    def __init__(self, wall: float | None = None) -> None:
        self._offset = (time.time() if wall is None else wall) - _steady()

    def now(self) -> float:
        """Seconds since the epoch, never less than before. Thread-safe."""
        return self._offset + _steady()


def _steady() -> float:
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)
