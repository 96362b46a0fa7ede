"""`PeakRss`: the most memory that this process and its children held together. Used by commands that report it."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_MIB = 1024 * 1024


class PeakRss:
    """Samples the resident memory of the whole process tree in a thread of its own. A context manager.

    Between samples, the peak that the kernel keeps for this process counts too (Linux), so that only a short peak of a
    child can be missed. Pages that processes share are counted for each of them.

    Args:
        interval: Seconds between samples.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self._interval = interval
        self._process = psutil.Process()
        self._peak = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def peak(self) -> float:
        """The peak so far in MiB, this moment included."""
        self._peak = max(self._peak, tree_rss(self._process), _own_high_water_mark())
        return self._peak

    def start(self) -> None:
        """Begin sampling."""
        self._thread = threading.Thread(target=self._sample, name="peak-rss", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """End sampling.

        Returns:
            The peak in MiB.
        """
        peak = self.peak
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return peak

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            self._peak = max(self._peak, tree_rss(self._process))


def tree_rss(process: psutil.Process) -> float:
    """Resident memory of a process and all its descendants at this moment, in MiB."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended between listing and asking
            total += member.memory_info().rss
    return total / _MIB


def _own_high_water_mark() -> float:
    """The largest resident memory that this process ever had, in MiB; 0 where the kernel does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    sizes = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(sizes[0]) / 1024 if sizes else 0.0
