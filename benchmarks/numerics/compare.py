"""Advantages, losses, KL and rollout correction of ours beside verl's own: numbers, CPU time, memory. Prints tables.

    python benchmarks/numerics/compare.py [--only numbers|speed] [--what NAME ...] [--rounds N] [--runs N] [--json FILE]

Both sides are programs that stay open (`ours.py`, and `peer_verl.py` in an environment of its own), each on one CPU
thread. Numbers: both compute the small cases of `cases.py`, and every result is compared. Speed: of each large case
there and back (A B B A), the least CPU time of all runs, since whatever else the machine does only adds to it; memory
is the peak of a run beyond what goes in and comes out. The exit status is 1 if a number differs without a reason that
`reasons.py` lists; a missed target is named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from cases import ESTIMATORS, POLICY_LOSSES, measured_cases
from reasons import REASONS, Reason
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
VERL = HERE.parents[1] / ".peers" / "verl"
TOLERANCES = {"float64": 1e-7, "float32": 5e-6}
"""Of the largest number of a tensor, or of 1 if that is larger. verl computes shares and their 1e-8 in float32."""
HALF = {"gae", *(f"policy loss {mode}" for mode in (*POLICY_LOSSES, "bypass_mode"))}
"""What is to need at most half of verl's memory; scalar estimators at most as much."""
BY_TOKEN = {"gae", "reinforce_plus_plus", "remax", "optimal_token_baseline", "tir_optimal_token_baseline"}
SCALAR = set(ESTIMATORS) - BY_TOKEN
SPEED = 0.95
"""verl's CPU time over ours, at least: not slower, and two runs of the same differ by so much."""
NOTHING_MIB = 0.5
"""Below this, memory is rounding: pages, and numbers a row."""


class Side:
    """A program that answers a line with a line."""

    def __init__(self, *command: str) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # glibc tunes itself by what was freed before, so that a call's time would depend on the calls before it.
        memory = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
        self._process = subprocess.Popen(
            command,
            cwd=HERE,
            env={**os.environ, **threads, **memory, "VERL_LOGGING_LEVEL": "ERROR"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.about: dict[str, Any] = self._line()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait()

    def ask(self, **question: Any) -> dict[str, Any]:
        """What it says to this.

        Raises:
            RuntimeError: it ended instead.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"`{self._process.args}` ended with status {self._process.wait()}; run it by hand")
        return json.loads(line)


# -- numbers -------------------------------------------------------------------------------------------------------


class Numbers:
    """What differs, by function; what of it is known."""

    def __init__(self, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
        self.compared: dict[str, int] = defaultdict(int)
        self.largest: dict[tuple[str, str], float] = defaultdict(float)
        self.unexplained: list[tuple[str, float]] = []
        self.explained: dict[Reason, tuple[int, float]] = {}
        for title in sorted({*ours, *theirs}):
            self._compare(title, ours.get(title), theirs.get(title))

    def _compare(self, title: str, ours: np.ndarray | None, theirs: np.ndarray | None) -> None:
        what, case, _ = title.split(" | ")
        bits = case.rsplit(", ", 1)[1]
        self.compared[what] += 1
        found = deviation(ours, theirs)
        if found <= TOLERANCES[bits]:
            self.largest[what, bits] = max(self.largest[what, bits], found)
            return
        reason = next((reason for reason in REASONS if reason.explains(title, ours, theirs, found)), None)
        if reason is None:
            self.unexplained.append((title, found))
            return
        number, worst = self.explained.get(reason, (0, 0.0))
        self.explained[reason] = (number + 1, max(worst, found) if np.isfinite(found) else worst)


def deviation(ours: np.ndarray | None, theirs: np.ndarray | None) -> float:
    """The largest difference over the largest number; infinite if a side is missing, NaN or of another shape."""
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return float("inf")
    if ours.dtype.kind == "U":  # both refuse, each in its own words
        return 0.0
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if same.all():
        return 0.0
    if not np.isfinite(one[~same]).all() or not np.isfinite(other[~same]).all():
        return float("inf")
    scale = np.abs(other[np.isfinite(other)]).max(initial=1.0)
    return float(np.abs(one - other)[~same].max() / scale)


def compare_numbers(ours: Side, theirs: Side) -> Numbers:
    with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder:
        files = [f"{folder}/{name}.npz" for name in ("ours", "theirs")]
        for side, file in zip((ours, theirs), files, strict=True):
            side.ask(numbers=file)
        with np.load(files[0]) as one, np.load(files[1]) as other:
            return Numbers(dict(one), dict(other))


def print_numbers(numbers: Numbers, console: Console) -> None:
    table = Table("function", "results", "float64", "float32", "", title="Largest deviation from verl")
    bad = {title.split(" | ")[0] for title, _ in numbers.unexplained}
    for what, compared in numbers.compared.items():
        shown = [f"{numbers.largest.get((what, bits), 0.0):.1e}" for bits in TOLERANCES]
        table.add_row(what, str(compared), *shown, "DIFFERS" if what in bad else "equal")
    console.print(table)
    known = Table("known deviations", "results", "largest", title="Where ours is not verl's, and why")
    for reason, (number, worst) in numbers.explained.items():
        known.add_row(reason.text, str(number), f"{worst:.1e}")
    console.print(known)
    for title, found in numbers.unexplained[:50]:
        console.print(f"differs: {title}: {found:.3g}", markup=False, soft_wrap=True)
    if len(numbers.unexplained) > 50:
        console.print(f"and {len(numbers.unexplained) - 50} more")


# -- speed and memory ----------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Of one function."""

    ours_ms: float
    theirs_ms: float
    ours_mib: float | None
    theirs_mib: float | None

    @property
    def speed(self) -> float:
        return self.theirs_ms / self.ours_ms

    def slower(self) -> bool:
        return self.speed < SPEED

    def asked_mib(self, what: str) -> float | None:
        """At most so much, or no target."""
        if self.theirs_mib is None or what not in HALF | SCALAR:
            return None
        return max(self.theirs_mib * (0.5 if what in HALF else 1.0), NOTHING_MIB)

    def fatter(self, what: str) -> bool:
        asked = self.asked_mib(what)
        return asked is not None and self.ours_mib is not None and self.ours_mib > asked


def measure(what: str, ours: Side, theirs: Side, rounds: int, runs: int) -> Measured:
    """There and back; the least of all runs."""
    found: dict[Side, list[dict[str, Any]]] = {ours: [], theirs: []}
    for turn in range(rounds):
        for side in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            found[side].append(side.ask(measure=what, runs=runs))
    ms = [min(second for said in found[side] for second in said["seconds"]) * 1e3 for side in (ours, theirs)]
    mib = [min((said["mib"] for said in found[side] if said["mib"] is not None), default=None) for side in found]
    return Measured(ms[0], ms[1], mib[0], mib[1])


def print_measured(measured: Mapping[str, Measured], console: Console) -> None:
    heads = ("function", "ours ms", "verl ms", "times less", "ours MiB", "verl MiB", "asked MiB", "")
    table = Table(*heads, title="CPU time, and memory beyond inputs and outputs: 1,024 x 4,096 float32, with gradients")
    for what, found in measured.items():
        missed = [word for word, is_so in (("SLOWER", found.slower()), ("MEMORY", found.fatter(what))) if is_so]
        mib = [_mib(value) for value in (found.ours_mib, found.theirs_mib, found.asked_mib(what))]
        times = (f"{found.ours_ms:,.1f}", f"{found.theirs_ms:,.1f}", f"{found.speed:.2f}")
        table.add_row(what, *times, *mib, " ".join(missed) or "met")
    console.print(table)


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{max(value, 0.0):.1f}"


# -- both ----------------------------------------------------------------------------------------------------------


def as_json(numbers: Numbers | None, measured: Mapping[str, Measured]) -> dict[str, Any]:
    said: dict[str, Any] = {
        what: {**found._asdict(), "slower": found.slower(), "memory_missed": found.fatter(what)}
        for what, found in measured.items()
    }
    result: dict[str, Any] = {"measured": said}
    if numbers is not None:
        result["deviations"] = {f"{what}, {bits}": worst for (what, bits), worst in numbers.largest.items()}
        result["explained"] = {reason.text: count for reason, (count, _) in numbers.explained.items()}
        result["unexplained"] = [title for title, _ in numbers.unexplained]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["numbers", "speed"])
    parser.add_argument("--what", nargs="+", metavar="NAME", help="functions to time, as the table names them")
    parser.add_argument("--rounds", type=int, default=2, help="default 2 (A B B A)")
    parser.add_argument("--runs", type=int, default=3, help="of each side in a round, default 3")
    parser.add_argument("--json", type=Path, default=Path("runs/bench-numerics.json"), help="default %(default)s")
    args = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    if not (VERL / ".installed").exists():
        console.print("verl is not built: make .peers/verl/.installed")
        sys.exit(2)
    load = os.getloadavg()[0]
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load:.1f}")
    numbers: Numbers | None = None
    measured: dict[str, Measured] = {}
    with (
        Side(sys.executable, "ours.py") as ours,
        Side(str(VERL / "bin" / "python"), "peer_verl.py") as theirs,
    ):
        console.print(f"torch {ours.about['torch']}, in verl's environment {theirs.about['torch']}")
        if args.only != "speed":
            numbers = compare_numbers(ours, theirs)
            print_numbers(numbers, console)
        if args.only != "numbers":
            for what in chosen(args.what):
                measured[what] = measure(what, ours, theirs, args.rounds, args.runs)
                console.print(f"{what}: {measured[what].speed:.2f} times less CPU time")
            print_measured(measured, console)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(as_json(numbers, measured), indent=1) + "\n")
    console.print(f"written to {args.json}")
    sys.exit(1 if numbers is not None and numbers.unexplained else 0)


def chosen(names: Sequence[str] | None) -> list[str]:
    """Functions to time.

    Raises:
        SystemExit: there is none of a name.
    """
    known = [case.what for case in measured_cases((4, 8))]
    if unknown := set(names or ()) - set(known):
        raise SystemExit(f"{', '.join(sorted(unknown))} not among: {', '.join(known)}")
    return [name for name in known if not names or name in names]


if __name__ == "__main__":
    main()
