"""What the drivers share: arguments, data, and the record of which prompt was best after how many rollouts.

A driver runs one optimiser once and prints one JSON object a line: for each budget the prompts that the optimiser would
have returned had it been stopped there, with their exact held-out gain, and at last what the run cost. It runs in the
optimiser's own environment, so here is nothing but the standard library.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from bed.catalog import world
from bed.families import TEST, TRAIN, VAL, World

BUDGETS = (150, 300, 600, 1232)
"""Rollouts after which the figures are taken; 1232 is what upstream's defaults spend on 32 validation tasks."""


def arguments(description: str) -> argparse.Namespace:
    """The command line of a driver."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--endpoint", required=True, help="address of `serve.py`")
    parser.add_argument("--family", required=True)
    parser.add_argument("--seed", type=int, default=0, help="of dataset, noise and optimiser")
    parser.add_argument("--name", default="run", help="of the run, for the endpoint")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON; what it holds is the driver's own")
    parser.add_argument("--budgets", type=lambda text: [int(n) for n in text.split(",")], default=list(BUDGETS))
    parser.add_argument("--runners", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="nothing shortened: for the wall time")
    return parser.parse_args()


class Record:
    """What was best when."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.world: World = world(args.family)
        self.seed: int = args.seed
        self.base_url = f"{args.endpoint}/{args.family}/{args.seed}/{args.name}/v1"
        self.budgets: list[int] = sorted(args.budgets)
        self._events: list[tuple[int, int, dict[str, str]]] = [(0, 0, dict(self.world.start))]
        self._began = time.perf_counter()

    def data(self, numbers: range) -> list[dict[str, Any]]:
        """Tasks as an agent gets them."""
        return [{"number": task.number, "case": task.text} for task in self.world.tasks(self.seed, numbers)]

    def train(self) -> list[dict[str, Any]]:
        """Training data."""
        return self.data(TRAIN)

    def val(self) -> list[dict[str, Any]]:
        """Validation data."""
        return self.data(VAL)

    def best(self, budget: int, texts: Mapping[str, str], spent: int | None = None) -> None:
        """With a budget of so many rollouts and more, the optimiser returns `texts`; it has paid `spent` by then."""
        self._events.append((budget, budget if spent is None else spent, dict(texts)))

    def at(self, budget: int) -> tuple[int, dict[str, str]]:
        """Rollouts paid, and prompts, of the last event within a budget."""
        return [event for event in self._events if event[0] <= budget][-1][1:]

    def gain(self, texts: Mapping[str, str]) -> float:
        """Exact, on held-out tasks: 0 is the start, 1 the oracle."""
        return self.world.gain(texts, self.world.tasks(self.seed, TEST))

    def report(self, **costs: float | str) -> None:
        """Print all."""
        for budget in self.budgets:
            spent, texts = self.at(budget)
            print(json.dumps({"budget": budget, "spent": spent, "gain": self.gain(texts), "texts": texts}))
        wall = time.perf_counter() - self._began
        print(json.dumps({"wall_s": wall, "cpu_s": time.process_time(), **costs}), flush=True)
