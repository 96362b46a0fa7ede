"""`python -m agentlightning.execution.child`: one runner process. Started and kept by `supervisor`.

It reads its job from stdin and runs the runner bundle until it ends. Afterwards stdin carries orders: a line `stop`
means finish what is under way and end; its end means that the parent is gone, so stop at once. Reports go out on
stdout, one line each (`began ID SECONDS`, `ended ID`); what agents print goes to stderr, where the parent passes it on.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback
from typing import IO, Any, NoReturn

from agentlightning.types import StoreUnavailableError

from .events import ThreadingEvent
from .host import install_host
from .job import read_part

RECYCLE = 75
"""Exit code: code of an agent could not be stopped; start another process in place of this one."""
BAD_JOB = 70
"""Exit code: the job can't be loaded here, and so in no other child either."""
STORE_UNAVAILABLE = 69
"""Exit code: the store can't be reached."""
LAST_WORDS_S = 1.5
"""How long an orphan may take to tell the store that it stops."""
GOODBYE_S = 5.0
"""How long the exit of a process that has done its work may take."""


class ChildHost:
    """The `host.Host` of a runner process: reports to the supervisor.

    Args:
        worker_name: Under which the store knows the runner.
        reports: Stream to the supervisor.
        event: Set to take no more rollouts.
    """

    def __init__(self, worker_name: str, reports: IO[bytes], event: ThreadingEvent):
        self.worker_name = worker_name
        self.recycle = False
        """Whether code that can't be stopped is still running."""
        self._reports = reports
        self._event = event
        self._watched: set[str] = set()
        self._finished_one = False

    def began(self, attempt_id: str, timeout: float | None) -> None:
        """Reported only where there is a deadline: a report costs the parent more than a trivial agent."""
        if timeout is not None:
            self._watched.add(attempt_id)
            self._report(f"began {attempt_id} {timeout:g}")

    def ended(self, attempt_id: str) -> None:
        """Reported for watched attempts, and for the first one: it shows that this process works."""
        if attempt_id in self._watched or not self._finished_one:
            self._watched.discard(attempt_id)
            self._finished_one = True
            self._report(f"ended {attempt_id}")

    def abandoned(self) -> None:
        """Take no more rollouts; exit with `RECYCLE` once those under way have ended."""
        self.recycle = True
        self._event.set()

    def _report(self, line: str) -> None:
        try:
            self._reports.write(line.encode() + b"\n")
        except OSError:  # the parent is gone, and `_obey` is about to notice
            self._event.set()


def main() -> None:
    """Run the job on stdin."""
    reports, orders = _take_streams()
    faulthandler.enable()  # a crash in native code, and the abort of a hung process, say on stderr where
    try:
        about: dict[str, Any] = read_part(orders)
        sys.path[:], sys.argv[:] = about["sys_path"], about["argv"]
        logging.basicConfig(level=about["log_level"], format="%(levelname)s %(name)s: %(message)s")
        bundle, store = read_part(orders), read_part(orders)
    except EOFError:
        os._exit(1)
    except BaseException:  # noqa: BLE001  # whatever importing the agent's module raises
        traceback.print_exc()
        _exit(BAD_JOB)
    event = ThreadingEvent()
    host = ChildHost(about["worker_name"], reports, event)
    install_host(host)
    signal.signal(signal.SIGINT, _ignore)  # Ctrl-C reaches the whole terminal; the parent says what to do
    asyncio.run(_run(bundle, store, about["worker_number"], host, event, orders))


async def _run(bundle: Any, store: Any, number: int, host: ChildHost, event: ThreadingEvent, orders: IO[bytes]) -> None:
    """Run the bundle. Returns only after a good end; a bad one ends the process here, whatever else still runs."""
    work = asyncio.ensure_future(bundle(store, number, event))
    loop = asyncio.get_running_loop()
    if os.name == "posix":
        loop.add_signal_handler(signal.SIGTERM, event.set)

    def orphaned() -> None:
        _exit_after(LAST_WORDS_S, 1)
        loop.call_soon_threadsafe(work.cancel)

    threading.Thread(target=_obey, args=(orders, event, orphaned), daemon=True).start()
    try:
        await work
    except asyncio.CancelledError:
        _exit(0)
    except StoreUnavailableError as error:
        print(f"StoreUnavailableError: {error}", file=sys.stderr)
        _exit(STORE_UNAVAILABLE)
    except BaseException:  # noqa: BLE001  # the parent shows it
        traceback.print_exc()
        _exit(1)
    if host.recycle:
        _exit(RECYCLE)
    _exit_after(GOODBYE_S, 0)  # what agents registered to do at exit is done, but no thread of theirs keeps us alive


def _obey(orders: IO[bytes], event: ThreadingEvent, orphaned: Any) -> None:
    """Read orders until the parent closes the pipe or is gone. Runs in a thread."""
    for line in orders:
        if line.strip() == b"stop":
            event.set()
    event.set()
    orphaned()


def _take_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Stdout for reports and stdin for orders, out of the reach of agents: they print to stderr and read nothing."""
    reports = os.fdopen(os.dup(1), "wb", buffering=0)
    orders = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # for the life of the process
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return reports, orders


def _ignore(*_: Any) -> None:
    """A handler, not `SIG_IGN`: that would be inherited by the programs which agents start."""


def _exit_after(seconds: float, code: int) -> None:
    def wait_and_exit() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=wait_and_exit, daemon=True).start()


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
