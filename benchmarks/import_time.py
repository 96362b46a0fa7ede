"""What importing costs, beside starting Python: seconds and resident memory, as ratios to `python -c pass`.

python benchmarks/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 9
STATEMENTS = {
    "python -c pass": "pass",
    "import agentlightning": "import agentlightning",
    "its names for training": "import agentlightning as agl; agl.rollout, agl.Trainer, agl.VERL, agl.emit_reward",
}
REPORT = "import resource, sys; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(sys.modules))"
MIB = 2**20 if sys.platform == "darwin" else 2**10
"""What one MiB is in the unit of `ru_maxrss`."""


def measure(statement: str) -> tuple[float, float, int]:
    """Wall seconds, MiB and number of modules of a new interpreter that runs `statement`."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", f"{statement}; {REPORT}"], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    size, modules = done.stdout.split()
    return seconds, int(size) / MIB, int(modules)


def main() -> None:
    runs: dict[str, list[tuple[float, float, int]]] = {name: [] for name in STATEMENTS}
    for turn in range(ROUNDS + 1):
        for name, statement in STATEMENTS.items():  # in turn, so that a busy moment hits all
            figures = measure(statement)
            if turn:  # the first turn warms the file cache
                runs[name].append(figures)
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in runs.items()}
    base = medians["python -c pass"]
    print(f"{'':24}{'seconds':>9}{'ratio':>8}{'MiB':>9}{'ratio':>8}{'modules':>9}")
    for name, (seconds, mib, modules) in medians.items():
        print(f"{name:24}{seconds:9.3f}{seconds / base[0]:8.2f}{mib:9.1f}{mib / base[1]:8.2f}{modules:9.0f}")


if __name__ == "__main__":
    main()
