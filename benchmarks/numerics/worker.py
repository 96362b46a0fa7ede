"""A side as a program that answers on its standard input and output: numbers into a file, time and memory of a call.

Read in both environments: torch and numpy only. `compare.py` writes one JSON object a line and reads one back.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import Case, measured_cases, parity_cases

ENOUGH = 0.5
"""CPU seconds of a call's runs together, at least, but for ten times as many runs."""

Results = dict[str, Any]
"""By name: a tensor, a number, or nothing."""


def serve(calls: Mapping[str, Callable[..., Results]]) -> None:
    """Answer until the other end closes."""
    torch.set_num_threads(1)
    answer, sys.stdout = sys.stdout, sys.stderr  # what libraries print goes elsewhere
    large: dict[str, Case] = {}
    print(json.dumps({"torch": torch.__version__}), file=answer, flush=True)
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        if "numbers" in asked:
            np.savez(asked["numbers"], **_numbers(calls))
            said: dict[str, Any] = {}
        else:
            large = large or {case.what: case for case in measured_cases()}
            said = _measure(calls, large[asked["measure"]], asked["runs"])
        print(json.dumps(said), file=answer, flush=True)


def _numbers(calls: Mapping[str, Callable[..., Results]]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for case in parity_cases():
        torch.manual_seed(0)
        try:
            results = calls[case.call](**case.arguments)
        except Exception as error:  # noqa: BLE001 - that a side refuses, and how, is a result too
            results = {"error": np.array(f"{type(error).__name__}: {error}"[:200])}
        for key, value in results.items():
            if value is not None:
                array = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
                found[f"{case.title} | {key}"] = array
    return found


def _measure(calls: Mapping[str, Callable[..., Results]], case: Case, runs: int) -> dict[str, Any]:
    """CPU seconds of each run after a first one that warms up, and MiB that a run needs beyond its results.

    A short call runs more often, as a cache that somebody else used weighs more in it.
    """
    call = calls[case.call]
    call(**case.arguments)
    seconds: list[float] = []
    while len(seconds) < runs or (sum(seconds) < ENOUGH and len(seconds) < 10 * runs):
        began = time.process_time()
        results = call(**case.arguments)
        seconds.append(time.process_time() - began)
        del results
    return {"seconds": seconds, "mib": _extra_mib(call, case)}


def _extra_mib(call: Callable[..., Results], case: Case) -> float | None:
    """The peak of resident memory during a run, less what was there before and less the results; Linux only."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    clear.write_text("5")  # the peak starts anew
    before = _kib(status, "VmRSS")
    results = call(**case.arguments)
    peak = _kib(status, "VmHWM")
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for value in results.values()
        if isinstance(value, torch.Tensor)
    }
    return (peak - before) / 2**10 - sum(storages.values()) / 2**20


def _kib(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))
