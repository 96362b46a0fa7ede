"""Runs a driver again and again, each time in a fork of one process that has imported what the driver needs: upstream's
imports take a third of a run. Started by `compare.py`, in the optimiser's own environment; standard library only.

    python benchmarks/apo/fleet.py peer_upstream.py agentlightning.algorithm.apo

Reads JSON lines `{"arguments": [...], "out": file, "err": file, "limit_s": seconds}` and answers each with a line, the
exit status; a run that takes longer than its limit is ended by SIGALRM.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(driver: str, arguments: list[str], out: str, err: str, limit_s: int) -> int:
    """Run the driver in a fork, its output in files; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.alarm(limit_s)
    sys.argv = [driver, *arguments]
    status = 1
    try:
        runpy.run_path(str(HERE / driver), run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else bool(ended.code)
    except BaseException:  # noqa: BLE001  # what a driver dies of goes to its standard error
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    driver, *modules = sys.argv[1:]
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # what all runs share is no garbage; looking for some in it takes a tenth of a run
    gc.set_threshold(100_000)
    for line in sys.stdin:
        job = json.loads(line)
        print(run(driver, job["arguments"], job["out"], job["err"], job["limit_s"]), flush=True)


if __name__ == "__main__":
    main()
