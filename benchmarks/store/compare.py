"""Runs the drivers, ours and those of Agent-Lightning 0.3 in turn, and prints a table of ratios and targets.

    python benchmarks/store/compare.py [--only NAME ...] [--quick] [--alone] [--rounds N]

The sides of a scenario run there and back (A B B A), each in a fresh process and an empty directory; a figure is the
median of its runs. Without the peer's environment (`make bench-peers`) ours are printed alone, and it says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scenarios import SCENARIOS, Row, Scenario, Side

HERE = Path(__file__).resolve().parent
PEER = HERE.parent.parent / ".peers" / "agentlightning-0.3" / "bin" / "python"
TIME_LIMIT = 600
"""Seconds that one driver may take."""

Figures = dict[str, list[dict[str, float]]]
"""What the runs of each side reported."""


class Comparison:
    """One scenario after the other, with the environments and the size of the runs."""

    def __init__(self, peer: Path | None, quick: bool, rounds: int) -> None:
        self.peer = peer
        self.quick = quick
        self.rounds = rounds
        self.missed = 0
        self.failed: list[str] = []

    def run(self, scenario: Scenario) -> Figures:
        """The reports of every side; one that fails is named, and has none."""
        sides = {name: side for name, side in scenario.sides.items() if self.peer or not side.peer}
        order = list(sides)
        found: Figures = {name: [] for name in order}
        for turn in range(self.rounds):
            for name in order if turn % 2 == 0 else reversed(order):
                try:
                    found[name].append(self._drive(sides[name]))
                except (subprocess.SubprocessError, ValueError) as error:
                    self.failed.append(f"{scenario.title}, {name}: {error}")
        return found

    def _drive(self, side: Side) -> dict[str, float]:
        driver, *flags = shlex.split(f"{side.command} {side.quick if self.quick else ''}")
        python = str(self.peer) if side.peer else sys.executable
        environment = dict(os.environ, OMP_NUM_THREADS="1", LITELLM_LOCAL_MODEL_COST_MAP="True")
        if side.peer:
            environment.pop("PYTHONPATH", None)
        with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder, tempfile.TemporaryFile("w+") as notes:
            process = subprocess.Popen(
                [python, str(HERE / driver), *flags],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=notes,
                text=True,
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(timeout=TIME_LIMIT)
            finally:
                _end_group(process)
            if process.returncode:
                notes.seek(0)
                raise ValueError(f"exit code {process.returncode}: {notes.read().strip()[-500:]}")
        return json.loads(output.splitlines()[-1])

    def lines(self, scenario: Scenario, figures: Figures) -> list[list[str]]:
        """The scenario's rows of the table."""
        return [self._line(row, figures) for row in scenario.rows]

    def _line(self, row: Row, figures: Figures) -> list[str]:
        value = _median(figures, row.side, row.figure)
        part = row.target.startswith("part")
        base = _median(figures, row.side, row.against) if part else _median(figures, row.against, row.figure)
        ratio = None if value is None or not base else base / value if row.less else value / base
        verdict = self._verdict(row.target, value if row.target.startswith("value") else ratio)
        beside = row.figure if row.against in ("0.3", row.side) or part else f"{row.figure}, against {row.against}"
        return [row.side, beside, _number(value), _number(base), _number(ratio), row.target, verdict]

    def _verdict(self, target: str, value: float | None) -> str:
        if not target:
            return ""
        if value is None:
            return "no figure"
        _, sign, bound = target.split()
        met = value >= float(bound) if sign == ">=" else value <= float(bound)
        self.missed += not met
        return "met" if met else "MISSED"


def _end_group(leader: subprocess.Popen[str]) -> None:
    """Kill the driver and what it started, if anything of it is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def _median(figures: Figures, side: str, name: str) -> float | None:
    values = [run[name] for run in figures.get(side, ()) if name in run]
    return statistics.median(values) if values else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _peer(path: Path, alone: bool) -> Path | None:
    if alone:
        return None
    if not path.exists():
        print("peer not built, ours are printed alone: make bench-peers\n")
        return None
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="fewer tasks, one run a side")
    parser.add_argument("--alone", action="store_true", help="ours only")
    parser.add_argument("--rounds", type=int, help="runs of each side; default 2 (A B B A), quick 1")
    parser.add_argument("--peer", type=Path, default=PEER, help="the Python of the peer's environment")
    args = parser.parse_args()
    rounds = args.rounds or (1 if args.quick else 2)
    comparison = Comparison(_peer(args.peer, args.alone), args.quick, rounds)
    cores = os.cpu_count()
    print(f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")
    head = ["scenario", "side", "figure", "ours", "beside", "ratio", "target", ""]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name in args.only:
        scenario = SCENARIOS[name]
        for line in comparison.lines(scenario, comparison.run(scenario)):
            print("| " + " | ".join([scenario.title, *line]) + " |", flush=True)
    print(f"\n{comparison.missed} targets missed")
    for failure in comparison.failed:
        print(f"failed: {failure}")
    sys.exit(1 if comparison.failed else 0)


if __name__ == "__main__":
    main()
