"""Prompt optimisers on the test bed: ours, upstream's APO and gepa at equal rollouts, and what they cost besides.

    python benchmarks/apo/compare.py [--quick] [--only NAME ...] [--families NAME ...] [--seeds N] [--jobs N] [--costs]

Every run is a process of its own (a fork, `fleet.py`), talks to one endpoint that this starts, and leaves a file in
`runs/bench-apo/results`; a second call goes on with what is missing or was made by other code or settings. A peer
whose environment is not there (`make bench-peers`) is named and left out. `--costs` measures time, one run after the
other, on a machine that should be quiet; `--tune` runs the grids of the peers' settings on the tuning families.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import table
from bed.catalog import REPORT, REPORT_SEEDS, TUNING, TUNING_SEEDS
from common import BUDGETS
from methods import (
    COMPARED,
    GEPA,
    GEPA_GRID,
    IMPORTS,
    METHODS,
    OURS,
    PYTHONS,
    ROOT,
    THIRD,
    UPSTREAM,
    UPSTREAM_GRID,
    Method,
    Settings,
)

HERE = Path(__file__).resolve().parent
HOME = ROOT / "runs" / "bench-apo"
LIMIT_S = 3600
"""Seconds that one run may take."""


class Job(NamedTuple):
    """One process."""

    method: str
    driver: str
    settings: Settings
    budgets: tuple[int, ...]
    family: str
    seed: int

    @property
    def name(self) -> str:
        digest = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=4).hexdigest()
        return f"{self.method.replace(', ', '-').replace(' ', '-')}-{self.family}-{self.seed}-{digest}"


def jobs_of(methods: Sequence[Method], families: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """One seed of everything before the next, so that an interrupted comparison is a whole one with fewer seeds."""
    return [
        Job(method.name, method.driver, settings, budgets, family, seed)
        for seed in seeds
        for family in families
        for method in methods
        for settings, budgets in method.runs()
    ]


def versions() -> dict[str, str]:
    """Hashes of what results depend on, by driver: the bed, and for ours the algorithm."""
    bed = _hash(sorted((HERE / "bed").glob("*.py")))
    ours = _hash(sorted((ROOT / "agentlightning" / "algorithm" / "apo").rglob("*.py")))
    return {driver: f"{bed} {_hash([HERE / driver])}" + (f" {ours}" if driver == OURS else "") for driver in PYTHONS}


def _hash(files: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def endpoint(latency_ms: float = 0.0) -> Iterator[str]:
    """Starts the server in a process of its own; its address."""
    command = [sys.executable, str(HERE / "serve.py"), "--latency-ms", str(latency_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def arguments_of(job: Job, address: str) -> list[str]:
    """What a driver is told."""
    told = ["--endpoint", address, "--family", job.family, "--seed", str(job.seed), "--name", job.name]
    return [*told, "--settings", json.dumps(job.settings), "--budgets", ",".join(map(str, job.budgets))]


def environment() -> dict[str, str]:
    """Of the drivers, which import nothing of ours that they do not have installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "OMP_NUM_THREADS": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def drive(job: Job, address: str, *flags: str) -> list[dict[str, Any]]:
    """Run a job in a process of its own, as for times; its lines. Raises `RuntimeError` with its last words."""
    command = [str(PYTHONS[job.driver]), str(HERE / job.driver), *arguments_of(job, address), *flags]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=LIMIT_S)
    return lines_of(ended.returncode, ended.stdout, ended.stderr)


def lines_of(status: int, out: str, err: str) -> list[dict[str, Any]]:
    """What a driver printed."""
    if status:
        raise RuntimeError(f"exit status {status}: {err.strip()[-600:]}")
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


class Fleet:
    """Runs jobs one after the other, each driver's in forks of one process (`fleet.py`). A context manager."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.communicate()
        self._folder.cleanup()

    def drive(self, job: Job, address: str) -> list[dict[str, Any]]:
        """As the function of this name."""
        process = self._process(job.driver)
        assert process.stdin is not None
        assert process.stdout is not None
        out, err = Path(self._folder.name, "out"), Path(self._folder.name, "err")
        told = {"arguments": arguments_of(job, address), "out": str(out), "err": str(err), "limit_s": LIMIT_S}
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that runs {job.driver} has ended")
        return lines_of(int(answer), out.read_text(), err.read_text())

    def _process(self, driver: str) -> subprocess.Popen[str]:
        if driver not in self._processes:
            command = [str(PYTHONS[driver]), str(HERE / "fleet.py"), driver, *IMPORTS[driver]]
            self._processes[driver] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
            )
        return self._processes[driver]


class Results:
    """The files."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "results"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.versions = versions()

    def read(self, job: Job) -> list[dict[str, Any]] | None:
        """A job's lines, if they are those of now."""
        file = self.folder / f"{job.name}.json"
        if not file.exists():
            return None
        found = json.loads(file.read_text())
        same = found["version"] == self.versions[job.driver] and set(job.budgets) <= set(found["budgets"])
        return found["lines"] if same else None

    def write(self, job: Job, lines: list[dict[str, Any]]) -> None:
        """Keep them."""
        found = {"version": self.versions[job.driver], "budgets": job.budgets, "settings": job.settings, "lines": lines}
        part = self.folder / f"{job.name}.part"
        part.write_text(json.dumps(found))
        part.replace(self.folder / f"{job.name}.json")

    def gains(self, jobs: Sequence[Job]) -> table.Gains:
        """What is there."""
        gains: table.Gains = {}
        for job in jobs:
            for line in table.rows(self.read(job) or []):
                if line["budget"] in job.budgets:
                    by_place = gains.setdefault(job.method, {}).setdefault(line["budget"], {})
                    by_place[job.family, job.seed] = line["gain"]
        return gains


def run_all(jobs: Sequence[Job], results: Results, workers: int) -> list[str]:
    """Run what is missing, several at once; what failed."""
    todo = [job for job in jobs if results.read(job) is None]
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them there already", flush=True)
    failed: list[str] = []
    with endpoint() as address, contextlib.ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        free: queue.SimpleQueue[Fleet] = queue.SimpleQueue()
        for _ in range(workers):
            free.put(stack.enter_context(Fleet()))

        def one(number: int, job: Job) -> None:
            fleet = free.get()
            try:
                lines = fleet.drive(job, address)
            except (RuntimeError, OSError, ValueError) as error:
                failed.append(f"{job.name}: {error}")
                print(f"{number}/{len(todo)} {job.name}: failed", flush=True)
                return
            finally:
                free.put(fleet)
            results.write(job, lines)
            gains = " ".join(f"{line['budget']}: {line['gain']:.2f}" for line in table.rows(lines))
            print(f"{number}/{len(todo)} {job.name}: {gains}, {lines[-1]['wall_s']:.0f} s", flush=True)

        list(pool.map(one, range(1, len(todo) + 1), todo))
    return failed


def show(gains: table.Gains) -> int:
    """Print the tables; how many targets are missed."""
    print("\nHeld-out gain (0 start, 1 oracle), mean and 95 % interval\n")
    print(table.gains_table(gains, BUDGETS))
    for budget in BUDGETS:
        print("\n" + table.families_table(gains, budget))
    if "auto" not in gains:
        return 0
    tests, missed = table.tests_table(gains, "auto", BUDGETS)
    print("\n`auto` against the others, pair by pair (same family, same seed)\n\n" + tests)
    if "upstream" in gains and THIRD in gains["auto"]:
        mine, theirs = table.mean(gains["auto"][THIRD]), table.mean(gains["upstream"][max(BUDGETS)])
        missed += mine < theirs
        print(
            f"\n`auto` with {THIRD} rollouts: {mine:.3f}; upstream's defaults with {max(BUDGETS):,}: {theirs:.3f}; "
            f"asked: at least as much: {'met' if mine >= theirs else 'MISSED'}"
        )
    return missed


def costs(families: Sequence[str]) -> int:
    """Time: overhead of a rollout, and wall time against upstream's loop; how many targets are missed."""
    missed = 0
    with endpoint() as address:
        line = drive(Job("auto", OURS, {"preset": "auto"}, (600,), families[0], 0), address, "--runners", "1")[-1]
    each = 1000 * line["overhead_s"] / line["rollouts"]
    missed += each > 20
    verdict = "met" if each <= 20 else "MISSED"
    print(f"\noverhead outside agent and LLM time: {each:.1f} ms a rollout, asked: at most 20: {verdict}")
    print(f"CPU time, the agent's HTTP client included: {1000 * line['fit_cpu_s'] / line['rollouts']:.1f} ms a rollout")
    if not PYTHONS[UPSTREAM].exists():
        return missed
    walls: dict[str, float] = {}
    with endpoint(latency_ms=50) as address:
        for name, driver, settings, flags in (
            ("ours, memory", OURS, {"once": True, "beam_rounds": 3}, ()),
            ("ours, SQLite", OURS, {"once": True, "beam_rounds": 3, "sqlite": True}, ()),
            ("upstream", UPSTREAM, {}, ("--wall",)),
        ):
            job = Job(f"wall {name}", driver, settings, (max(BUDGETS),), families[0], 0)
            line = drive(job, address, "--runners", "8", *flags)[-1]
            walls[name] = line.get("fit_s", line["wall_s"])
            print(f"wall time, 50 ms latency, 8 runners, the documented loop, {name}: {walls[name]:.1f} s", flush=True)
    for name in ("ours, memory", "ours, SQLite"):
        ratio = walls["upstream"] / walls[name]
        missed += ratio < 5
        print(f"upstream to {name}: {ratio:.1f}, asked: at least 5: {'met' if ratio >= 5 else 'MISSED'}")
    return missed


def tune(results: Results, workers: int, seeds: Sequence[int], drivers: Sequence[str]) -> list[str]:
    """The grids on the tuning families: mean gain of each at each budget, best first at the largest."""
    grids = {UPSTREAM: UPSTREAM_GRID, GEPA: GEPA_GRID}
    methods = [Method(json.dumps(s), d, s) for d in drivers for s in grids[d]]
    jobs = [
        job._replace(method=f"tune {job.driver[5:-3]}") for job in jobs_of(methods, [f.name for f in TUNING], seeds)
    ]
    failed = run_all(jobs, results, workers)
    for driver in drivers:
        for settings in grids[driver]:
            own = [job for job in jobs if job.driver == driver and job.settings == settings]
            (found,) = results.gains(own).values() or [{}]
            means = "  ".join(f"{b}: {table.mean(found[b]):.3f}" for b in BUDGETS if found.get(b))
            print(f"{driver} {means}  {json.dumps(settings)}")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="NAME", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--families", nargs="+", default=[family.name for family in REPORT], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=len(REPORT_SEEDS))
    parser.add_argument("--quick", action="store_true", help="one seed of two families")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    parser.add_argument("--draw", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--costs", action="store_true", help="measure times instead")
    parser.add_argument("--tune", nargs="*", choices=("upstream", "gepa"), help="run the grids of the peers instead")
    parser.add_argument("--home", type=Path, default=HOME)
    args = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}")
    families, seeds = (args.families[:2], 1) if args.quick else (args.families, args.seeds)
    methods = [METHODS[name] for name in args.only or COMPARED]
    absent = sorted({method.driver for method in methods if not PYTHONS[method.driver].exists()})
    for driver in absent:
        print(f"{driver}: its environment is not built, so it is left out: make bench-peers")
    results, missed = Results(args.home), 0
    if args.tune is not None:
        drivers = [f"peer_{name}.py" for name in args.tune or ("upstream", "gepa")]
        failed = tune(results, args.jobs, TUNING_SEEDS[: args.seeds], drivers)
    elif args.costs:
        failed, missed = [], costs(families)
    else:
        jobs = jobs_of([m for m in methods if m.driver not in absent], families, REPORT_SEEDS[:seeds])
        failed = [] if args.draw else run_all(jobs, results, args.jobs)
        missed = show(results.gains(jobs))
    print(f"\n{missed} targets missed")
    for failure in failed:
        print(f"failed: {failure}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
