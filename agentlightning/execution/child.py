"""`python -m agentlightning.execution.child`: one runner process. Started and kept by `supervisor`.

It reads its job from stdin and runs the runner bundle until it ends. Afterwards stdin carries orders: a line `stop`
means finish what is under way and end; its end means that the parent is gone, so stop at once. Reports go out on
stdout, one line each (`ready` once the job is loaded, `due ID SECONDS`, `ended ID`, and at a good end `finished`); what
agents print goes to stderr, where the parent passes it on.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import pickle
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
REPORT_S = 1.0
"""How often it reports that an attempt has ended, where nobody waits for just that one."""
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
        self._last_report = -REPORT_S

    def ready(self) -> None:
        """The job is loaded: another process may begin to load its own."""
        self._report("ready")

    def due(self, attempt_id: str, seconds: float) -> None:
        """The attempt is watched from now on."""
        self._watched.add(attempt_id)
        self._report(f"due {attempt_id} {seconds:g}")

    def ended(self, attempt_id: str) -> None:
        """Reported for watched attempts. Of others now and then, to show that this process works: each report costs
        the parent more than a trivial agent."""
        now = time.monotonic()
        if attempt_id in self._watched or now - self._last_report >= REPORT_S:
            self._watched.discard(attempt_id)
            self._last_report = now
            self._report(f"ended {attempt_id}")

    def finished(self) -> None:
        """It was no agent that ended this process."""
        self._report("finished")

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
    event, orphaned = ThreadingEvent(), ThreadingEvent()
    faulthandler.enable()  # a crash in native code, and the abort of a hung process, say on stderr where
    try:
        parts = [read_part(orders) for _ in range(3)]
        # Before anything is imported, which may take long: the parent may go meanwhile.
        threading.Thread(target=_obey, args=(orders, event, orphaned), daemon=True).start()
        about: dict[str, Any] = pickle.loads(parts[0])
        sys.path[:], sys.argv[:] = about["sys_path"], about["argv"]
        logging.basicConfig(level=about["log_level"], format="%(levelname)s %(name)s: %(message)s")
        bundle, store = pickle.loads(parts[1]), pickle.loads(parts[2])
    except EOFError:
        os._exit(1)
    except BaseException:  # noqa: BLE001  # whatever importing the agent's module raises
        traceback.print_exc()
        _exit(BAD_JOB)
    host = ChildHost(about["worker_name"], reports, event)
    install_host(host)
    host.ready()
    signal.signal(signal.SIGINT, _ignore)  # Ctrl-C reaches the whole terminal; the parent says what to do
    asyncio.run(_run(bundle, store, about["worker_number"], host, event, orphaned))


async def _run(
    bundle: Any, store: Any, number: int, host: ChildHost, event: ThreadingEvent, orphaned: ThreadingEvent
) -> None:
    """Run the bundle. Returns only after a good end; a bad one ends the process here, whatever else still runs."""
    work = asyncio.ensure_future(bundle(store, number, event))
    loop = asyncio.get_running_loop()
    if os.name == "posix":
        loop.add_signal_handler(signal.SIGTERM, event.set)

    parent_gone = asyncio.create_task(orphaned.wait_async())
    parent_gone.add_done_callback(lambda _: work.cancel())
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
    host.finished()
    _exit_after(GOODBYE_S, 0)  # what agents registered to do at exit is done, but no thread of theirs keeps us alive


def _obey(orders: IO[bytes], event: ThreadingEvent, orphaned: ThreadingEvent) -> None:
    """Read orders until the parent closes the pipe or is gone; then this process has `LAST_WORDS_S`. In a thread."""
    for line in orders:
        if line.strip() == b"stop":
            event.set()
    _exit_after(LAST_WORDS_S, 1)
    event.set()
    orphaned.set()


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
