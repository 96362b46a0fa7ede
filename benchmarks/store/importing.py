"""What `import agentlightning` costs a new interpreter, its start included: seconds and resident memory.

`names_s` and `names_mib` are for a training script's imports, because names may be imported on first use.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "import": "import agentlightning",
    "names": "import agentlightning as agl; "
    "agl.Trainer, agl.LitAgent, agl.algo, agl.OtelTracer, agl.InMemoryLightningStore, agl.emit_reward",
}
REPORT = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
MIB = 2**20 if sys.platform == "darwin" else 2**10
"""What one MiB is in the unit of `ru_maxrss`."""


def measure(statement: str) -> tuple[float, float]:
    """Medians of three new interpreters, after one that warms the cache."""
    runs: list[tuple[float, float]] = []
    for _ in range(4):
        begin = time.perf_counter()
        command = [sys.executable, "-c", f"{statement}; {REPORT}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append((time.perf_counter() - begin, int(done.stdout.split()[-1]) / MIB))
    seconds, mib = (statistics.median(column) for column in zip(*runs[1:], strict=True))
    return seconds, mib


def main() -> None:
    figures: dict[str, float] = {}
    for name, statement in STATEMENTS.items():
        figures[f"{name}_s"], figures[f"{name}_mib"] = measure(statement)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
