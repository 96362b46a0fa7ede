"""All algorithms on the calculator agent from one warm start: table, curves, gradient noise, entropy and reward.

    python -m benchmarks.algorithms.compare [--quick] [--only NAME ...] [--seeds N] [--jobs N] [--write-docs]

Every run is a process of its own and leaves a JSON file in `runs/bench-algorithms/results`; a second call goes on with
what is missing, or was made with other settings, and draws everything again. Times are those of the machine as it was:
run it on a quiet one. A run keeps one core busy; `--jobs` runs several at a time, each then slower.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from . import table
from .matrix import ALGORITHMS, HOME, QUICK, SEEDS, STEPS, TEST_PROBLEMS, WINDOW, result_file
from .plots import draw_curves, draw_entropy
from .table import Result
from .warm import MORE_DEMONSTRATIONS, settings_of

ROOT = Path(__file__).parents[2]
LIMIT_S = 75
"""What a run may take on two quiet cores."""
PAGE, IMAGES = ROOT / "docs" / "algorithms.md", ROOT / "docs" / "images"


class Piece(NamedTuple):
    """One process."""

    name: str
    seed: int = 0

    def file(self, home: Path) -> Path:
        return result_file(home, self.name, self.seed)


def pieces(names: Sequence[str], seeds: Sequence[int], *, noise: bool) -> Iterator[Piece]:
    """What has to run, in an order in which each finds what it starts from; one seed of all before the next."""
    yield Piece("warm")
    yield Piece("start")
    if noise:
        yield Piece("variance")
    for seed in seeds:
        for name in names:
            if ALGORITHMS[name].after_sft and "sft" not in names:
                yield Piece("sft", seed)
            yield Piece(name, seed)


def run(piece: Piece, home: Path) -> str | None:
    """Run a piece; what it said at its end if it failed."""
    command = [sys.executable, "-m", "benchmarks.algorithms.one", piece.name]
    command += ["--seed", str(piece.seed), "--home", str(home), "--output", str(piece.file(home))]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **threads})
    return ended.stderr.strip()[-500:] or f"exit status {ended.returncode}" if ended.returncode else None


def is_there(piece: Piece, home: Path) -> bool:
    """Whether a piece has a result, made with the settings of now."""
    if not piece.file(home).exists():
        return False
    now = settings_of(piece.name, home, piece.seed) if piece.name in ALGORITHMS else None
    return _read(piece, home).get("settings") == json.loads(json.dumps(now))


def run_all(todo: Sequence[Piece], home: Path, console: Console, jobs: int) -> list[str]:
    """Run what has no result yet, `jobs` at a time; a line each, and what failed."""

    def one(piece: Piece) -> str | None:
        place = f"{todo.index(piece) + 1}/{len(todo)} {piece.name}, seed {piece.seed}"
        if is_there(piece, home):
            console.print(f"{place}: there already", style="dim")
            return None
        began = time.perf_counter()
        if (problem := run(piece, home)) is not None:
            console.print(f"{place}: failed", style="red")
            return f"{piece.name}, seed {piece.seed}: {problem}"
        found = _read(piece, home)
        took = time.perf_counter() - began
        reward = f"{found['reward']:.3f}, " if "reward" in found else ""
        slow = f", more than {LIMIT_S} s" if took > LIMIT_S and piece.name in ALGORITHMS else ""
        console.print(f"{place}: {reward}{took:.0f} s, CPU {found['cpu_s']:.0f} s{slow}", highlight=False)
        return None

    for _, group in groupby(sorted(todo, key=_stage), key=_stage):
        with ThreadPoolExecutor(jobs) as pool:
            failed = [problem for problem in pool.map(one, group) if problem is not None]
        if failed:
            return failed
    return []


def _stage(piece: Piece) -> int:
    """What others start from comes before them."""
    return {"warm": 0, "start": 1, "sft": 2}.get(piece.name, 3)


def _read(piece: Piece, home: Path) -> Result:
    return json.loads(piece.file(home).read_text())


def collect(home: Path) -> tuple[list[table.Line], dict[str, list[Result]]]:
    """All results that are there, however many calls made them."""
    results: dict[str, list[Result]] = {}
    lines: list[table.Line] = []
    idle = _read(Piece("start"), home)
    for name, algorithm in ALGORITHMS.items():
        seeds = [seed for seed in SEEDS if Piece(name, seed).file(home).exists()]
        if not seeds:
            continue
        starts = [_read(Piece("sft", seed), home) if algorithm.after_sft else idle for seed in seeds]
        results[name] = [_read(Piece(name, seed), home) for seed in seeds]
        lines.append(table.line(name, starts, results[name], idle["peak_mib"]))
    return lines, results


def measured(home: Path, lines: Sequence[table.Line], results: dict[str, list[Result]]) -> str:
    """The page's section of figures."""
    seeds = max((line.seeds for line in lines), default=0)
    parts = [
        f"`make bench-algorithms` on the calculator agent: {STEPS} steps of 16 tasks, 8 rollouts each, two "
        f"mini-batches (DAPO half as many steps of up to three times the rollouts), seeds: {seeds}, from one warm "
        f"start, greedy reward on {TEST_PROBLEMS} held-out problems; {_machine()}.",
        table.comparison(lines),
        "End with its 95 % interval, gain with its standard error. *Improved*: a mean gain of at least "
        f"{table.LEAST_GAIN}, and every seed two standard errors above its start. SFT is one pass over "
        f"{MORE_DEMONSTRATIONS} right demonstrations; SFT -> PPO starts from it. *Numbers held* are weights, gradient, "
        "optimizer, critic and reference in sizes of the model; *memory* is the process' peak above that of one that "
        "only samples, which for a model this small is mostly what the allocator keeps.",
        "![Sampled reward over rollouts](images/algorithms.png)",
    ]
    noise = Piece("variance").file(home)
    if noise.exists():
        found = json.loads(noise.read_text())
        parts += [
            f"**Gradient noise** at the warm start, {found['batches']} batches of 8 rollouts for each of the same "
            f"{found['tasks']} tasks; all estimators on the same rollouts. Twice the noise wants twice the rollouts. "
            "A baseline leaves the mean as it is. Rewards of 0 and 1 need none where most rollouts succeed: the few "
            "failures, whose gradients are long, then weigh nothing, while the mean reward as a baseline gives them "
            "nearly all the weight. Of rewards of -1 and 0 the opposite is true.",
            table.noise_table(found),
        ]
    if fits := table.entropy_fits(results):
        parts += [
            f"**Entropy and reward**: `R = -a exp(H) + b`, fitted to means over {WINDOW} rollouts, all seeds.",
            table.entropy_table(fits, results),
            "![Reward over entropy](images/entropy.png)",
        ]
    return "\n\n".join(parts)


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ALGORITHMS, metavar="NAME", help="default all")
    parser.add_argument("--seeds", type=int, choices=range(1, len(SEEDS) + 1), default=len(SEEDS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, default %(default)s")
    parser.add_argument("--quick", action="store_true", help=f"one seed of {', '.join(QUICK)}, no gradient noise")
    parser.add_argument("--draw", action="store_true", help="run nothing, draw what is there")
    parser.add_argument("--home", type=Path, default=HOME, help="default %(default)s")
    parser.add_argument("--write-docs", action="store_true", help=f"put figures into {PAGE.relative_to(ROOT)}")
    args = parser.parse_args()
    console = Console()
    names = args.only or (list(QUICK) if args.quick else list(ALGORITHMS))
    todo = list(dict.fromkeys(pieces(names, SEEDS[: 1 if args.quick else args.seeds], noise=not args.quick)))
    console.print(f"{_machine()}, load {os.getloadavg()[0]:.1f}; results in {args.home}")
    failed = [] if args.draw else run_all(todo, args.home, console, args.jobs)
    if Piece("start").file(args.home).exists():
        show(args.home, console, write_docs=args.write_docs)
    for problem in failed:
        console.print(f"failed: {problem}", markup=False)
    sys.exit(1 if failed else 0)


def show(home: Path, console: Console, *, write_docs: bool) -> None:
    """Tables, pictures, and the page if it is asked for."""
    lines, results = collect(home)
    text = measured(home, lines, results)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    images = IMAGES if write_docs else home
    if any("rewards" in run for runs in results.values() for run in runs):
        draw_curves(results, images / "algorithms.png")
    if fits := table.entropy_fits(results):
        draw_entropy(results, fits, images / "entropy.png")
    if write_docs:
        page = PAGE.read_text()
        first = table.with_measured_columns(table.between(page, "comparison"), lines)
        PAGE.write_text(table.replaced(table.replaced(page, "comparison", first), "measured", text))
    console.print(f"pictures in {images}")


if __name__ == "__main__":
    main()
