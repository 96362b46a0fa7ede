"""A training step of ours beside TRL's, beside rows computed whole, beside plain transformers. Prints two tables.

    python benchmarks/training/compare.py [--only NAME ...] [--quick] [--alone] [--rounds N] [--json FILE]

Every side runs in a process of its own, a peer in an environment of its own, on one CPU thread, there and back
(A B B A). The figure is the CPU time of an update, the least of all runs, since whatever else the machine does only
adds to it; wall time stands beside it. A peer that is not built is named, never guessed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

HERE = Path(__file__).parent
TRL = HERE.parents[1] / ".peers" / "trl"
NO_TRL = "TRL is not built, what needs it is left out: make .peers/trl/.installed"


class Side(NamedTuple):
    """A program and what it is asked for."""

    what: str
    """An argument of `ours.py`, or `trl`."""
    prompt: int = 0
    """Tokens of each prompt, where there are prompts."""

    @property
    def command(self) -> list[str]:
        """How it is started."""
        program = [sys.executable, "ours.py", self.what]
        if self.what == "trl":
            program = [str(TRL / "bin" / "python"), "peer_trl.py"]
        return [*program, *(["--prompt", str(self.prompt)] if self.prompt else [])]


class Comparison(NamedTuple):
    """Ours beside another side; the ratio is theirs to ours, in seconds or, with `per_token`, in seconds a token."""

    title: str
    ours: Side
    other: Side
    least: float
    timed: str = "update"
    per_token: bool = False


COMPARISONS = {
    "shared-50": Comparison(
        "shared prompt of 50, to rows computed whole", Side("update", 50), Side("unshared", 50), 1.3
    ),
    "shared-256": Comparison("the same at 256", Side("update", 256), Side("unshared", 256), 2.3),
    "ragged": Comparison(
        "ragged rows, to transformers on dense ones", Side("ragged"), Side("dense"), 1.0, per_token=True
    ),
    "turns": Comparison("a row each of ten turns, to their merged row", Side("turns"), Side("merged"), 1 / 1.15),
    "trl-50": Comparison("GRPO update at 50, to TRL", Side("update", 50), Side("trl", 50), 2.0),
    "trl-256": Comparison("GRPO update at 256, to TRL", Side("update", 256), Side("trl", 256), 4.0),
    "step-50": Comparison(
        "GRPO step, sampling included, at 50, to TRL", Side("step", 50), Side("trl", 50), 1.6, "step"
    ),
}


class Found(NamedTuple):
    """What the runs of a side gave."""

    seconds: dict[str, list[tuple[float, float]]]
    """CPU and wall seconds of each run by what was timed."""
    peak_mib: float
    tokens: float

    def least(self, timed: str, clock: int = 0) -> float:
        return min(run[clock] for run in self.seconds[timed])


def run(side: Side, runs: int) -> Found:
    """One process of a side.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    ended = subprocess.run(
        [*side.command, "--runs", str(runs)], capture_output=True, text=True, cwd=HERE, env=_one_thread()
    )
    if ended.returncode:
        raise RuntimeError(f"{side.what} at {side.prompt}: {ended.stderr.strip()[-500:]}")
    said: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return Found(
        {name: [tuple(r) for r in rs] for name, rs in said["runs"].items()}, said["peak_mib"], said.get("tokens", 1)
    )


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def together(one: Found | None, other: Found) -> Found:
    """The runs of two processes of a side."""
    if one is None:
        return other
    seconds = {name: [*one.seconds[name], *runs] for name, runs in other.seconds.items()}
    return Found(seconds, max(one.peak_mib, other.peak_mib), other.tokens)


def measure(sides: list[Side], rounds: int, runs: int) -> tuple[dict[Side, Found], list[str]]:
    """All sides, there and back; and what failed."""
    found: dict[Side, Found] = {}
    failed: list[str] = []
    order = [side for turn in range(rounds) for side in (sides if turn % 2 == 0 else sides[::-1])]
    for side in track(order, "sides", transient=True):
        try:
            found[side] = together(found.get(side), run(side, runs))
        except RuntimeError as error:
            failed.append(str(error))
    return found, failed


def ratio(comparison: Comparison, found: Mapping[Side, Found], clock: int = 0) -> float | None:
    """How many times less ours takes."""
    ours, other = found.get(comparison.ours), found.get(comparison.other)
    if ours is None or other is None:
        return None
    seconds = other.least(comparison.timed, clock) / ours.least(comparison.timed, clock)
    return seconds * ours.tokens / other.tokens if comparison.per_token else seconds


def sides_table(found: Mapping[Side, Found]) -> Table:
    table = Table("side", "prompt", "timed", "CPU s", "wall s", "peak MiB", title="Seconds, the least of all runs")
    for side, result in found.items():
        for timed in result.seconds:
            cpu, wall = result.least(timed), result.least(timed, 1)
            table.add_row(
                side.what, str(side.prompt or "-"), timed, f"{cpu:.2f}", f"{wall:.2f}", f"{result.peak_mib:,.0f}"
            )
    return table


def ratios_table(chosen: Mapping[str, Comparison], found: Mapping[Side, Found]) -> Table:
    table = Table("name", "times less", "asked", "found", "", title="Ratios, by CPU time")
    for name, comparison in chosen.items():
        value = ratio(comparison, found)
        verdict = "no figure" if value is None else "met" if value >= comparison.least else "MISSED"
        shown = "-" if value is None else f"{value:.2f}"
        table.add_row(name, comparison.title, f"{comparison.least:.2f}", shown, verdict)
    return table


def as_json(chosen: Mapping[str, Comparison], found: Mapping[Side, Found]) -> dict[str, Any]:
    ratios = {
        name: {"asked": c.least, "found": ratio(c, found), "wall": ratio(c, found, 1)} for name, c in chosen.items()
    }
    return {"ratios": ratios, "sides": [{**side._asdict(), **result._asdict()} for side, result in found.items()]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="one process a side, one run each")
    parser.add_argument("--alone", action="store_true", help="no peers")
    parser.add_argument("--rounds", type=int, default=2, help="default 2 (A B B A)")
    parser.add_argument("--json", type=Path, default=Path("runs/bench-training.json"), help="default %(default)s")
    args = parser.parse_args()
    console = Console()
    built = (TRL / ".installed").exists()
    if not built and not args.alone:
        console.print(NO_TRL)
    chosen = {name: COMPARISONS[name] for name in args.only}
    cores, load = os.cpu_count(), os.getloadavg()[0]
    console.print(f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}")
    sides = list(dict.fromkeys(side for c in chosen.values() for side in (c.ours, c.other)))
    if args.alone or not built:
        sides = [side for side in sides if side.what != "trl"]
    found, failed = measure(sides, 1 if args.quick else args.rounds, 1 if args.quick else 3)
    console.print(sides_table(found), ratios_table(chosen, found))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(as_json(chosen, found), indent=1) + "\n")
    console.print(f"written to {args.json}")
    for failure in failed:
        console.print(f"failed: {failure}", markup=False)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
