"""Our gateway beside LiteLLM's proxy and a plain pass-through: CPU time a call, added latency. Prints two tables.

    python benchmarks/gateway/compare.py [--only SIDE ...] [--quick] [--alone] [--rounds N] [--skip cpu|latency]

Every side runs in a process, and if it is a peer in an environment, of its own, there and back (A B B A), before the
same stand-in for vLLM. CPU time is that of the whole process tree, the least of all runs, since whatever else the
machine does only adds to it. Latencies are medians of the rounds. A peer that is not built is named, never guessed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from typing import NamedTuple

from load import AT_ONCE, Agents, cpu_seconds
from shapes import request
from sides import HERE, KEY, PEERS, SIDES, Server, Side, free_port, start, wait_until_open

CPU = {
    "2k + 256": ("short", False, True),
    "16k + 512": ("long", False, True),
    "2k + 256 in 256 chunks": ("short", True, True),
    "2k + 256, no ids asked for": ("short", False, False),
}
"""By figure: the model, whether it streams, and whether callers ask for ids and log-probs where the side does not."""
CALLS = {("short", False): 500, ("long", False): 200, ("short", True): 96}
RUNS = 4
"""Runs of each figure in a round."""
RATES = (200, 20)
"""Arrivals a second."""
SECONDS = 10
"""How long they go on."""


class Target(NamedTuple):
    """What is asked of ours: at most so many ms, or so many times less than `beside`."""

    figure: str
    beside: str | None
    bound: float


TARGETS = (
    Target("2k + 256", None, 0.7),
    Target("16k + 512", None, 2.5),
    Target("2k + 256", "LiteLLM", 10.0),
    Target("2k + 256", "httpx", 1.5),
    Target("200/s: p50", None, 3.0),
    Target("200/s: p99", "LiteLLM", 4.0),
)

Figures = defaultdict[str, dict[str, list[float]]]
"""By figure and side: one value a run."""


class Comparison:
    """All sides one after the other."""

    def __init__(self, quick: bool, skip: str | None) -> None:
        self.figures: Figures = defaultdict(lambda: defaultdict(list))
        self.failed: list[str] = []
        self._quick = quick
        self._skip = skip

    def run(self, name: str) -> None:
        """One side, from its start to its end."""
        side = SIDES[name]
        with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder, ExitStack() as stack:
            port = free_port()
            backend = start([sys.executable, str(HERE / "backend.py"), "--port", str(port)], folder, stack)
            wait_until_open(backend, port)
            try:
                server = Server(side, f"http://127.0.0.1:{port}/v1", folder, stack)
                if self._skip != "cpu" and server.pid:
                    self._cpu(name, side, server)
                if self._skip != "latency" and side.timed:
                    self._latency(name, side, server)
            except (RuntimeError, OSError, ExceptionGroup) as error:
                self.failed.append(f"{name}: {error}")

    def _cpu(self, name: str, side: Side, server: Server) -> None:
        for figure, (model, stream, tokens) in CPU.items():
            if (stream and not side.streams) or (not tokens and not side.asks):
                continue
            agents = Agents(server.urls, request(model, stream=stream, tokens=tokens and side.asks), KEY)
            agents.at_once(AT_ONCE)
            calls = max(AT_ONCE, int(CALLS[model, stream] * side.share))
            for _ in range(1 if self._quick else RUNS):
                before = cpu_seconds(server.pid)
                agents.at_once(calls)
                self.figures[figure][name].append((cpu_seconds(server.pid) - before) / calls * 1e3)

    def _latency(self, name: str, side: Side, server: Server) -> None:
        for rate in RATES:
            agents = Agents(server.urls, request("slow", tokens=side.asks), KEY)
            agents.at_once(AT_ONCE)
            agents.seconds.clear()
            agents.arriving(rate * (3 if self._quick else SECONDS), rate)
            cuts = statistics.quantiles(agents.seconds, n=100)
            for part, cut in (("p50", cuts[49]), ("p99", cuts[98])):
                self.figures[f"{rate}/s: {part}"][name].append(cut * 1e3)

    # -- what is printed --------------------------------------------------------------------------------------------

    def value(self, figure: str, side: str) -> float | None:
        """The figure of a side, in ms: CPU time the least, latencies the median, less the backend's own."""
        found = self.figures[figure].get(side)
        if not found:
            return None
        if figure in CPU:
            return min(found)
        direct = self.figures[figure].get("backend")
        return statistics.median(found) - statistics.median(direct) if direct else None

    def table(self, sides: list[str], title: str, figures: list[str]) -> None:
        """One row a figure, one column a side."""
        print(f"\n| {title} | " + " | ".join(sides) + " |\n|" + "---|" * (len(sides) + 1))
        for figure in figures:
            print(f"| {figure} | " + " | ".join(_number(self.value(figure, side)) for side in sides) + " |")

    def targets(self) -> None:
        """What is asked for, and what came out."""
        print("\n| target | asked | found | |\n|---|---|---|---|")
        for figure, beside, bound in TARGETS:
            ours = self.value(figure, "ours")
            theirs = self.value(figure, beside) if beside else None
            found = ours if beside is None else theirs / ours if theirs and ours else None
            met = found is not None and (found <= bound if beside is None else found >= bound)
            title, asked = (
                (f"{figure}, ms", "at most") if beside is None else (f"{figure}, {beside} to ours", "at least")
            )
            verdict = "no figure" if found is None else "met" if met else "MISSED"
            print(f"| {title} | {asked} {bound:g} | {_number(found)} | {verdict} |")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _sides(only: list[str], alone: bool) -> list[str]:
    """Those that can run."""
    built = (PEERS / "litellm").exists()
    if not built and not alone:
        print("peers not built, ours is printed alone: make bench-peers\n")
    return [name for name in only if not SIDES[name].peer or (built and not alone)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE")
    parser.add_argument("--quick", action="store_true", help="one run of each, 3 s of arrivals")
    parser.add_argument("--alone", action="store_true", help="no peers")
    parser.add_argument("--rounds", type=int, default=2, help="default 2 (A B B A)")
    parser.add_argument("--skip", choices=["cpu", "latency"])
    args = parser.parse_args()
    comparison = Comparison(args.quick, args.skip)
    sides = _sides(args.only, args.alone)
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}", flush=True)
    for turn in range(args.rounds):
        for name in sides if turn % 2 == 0 else reversed(sides):
            comparison.run(name)
    if args.skip != "cpu":
        comparison.table([name for name in sides if name != "backend"], "CPU time a call, ms", list(CPU))
    if args.skip != "latency":
        figures = [f"{rate}/s: {part}" for rate in RATES for part in ("p50", "p99")]
        timed = [name for name in sides if SIDES[name].timed]
        comparison.table(timed, "added latency, ms", figures)
    comparison.targets()
    for failure in comparison.failed:
        print(f"failed: {failure}")
    sys.exit(1 if comparison.failed else 0)


if __name__ == "__main__":
    main()
