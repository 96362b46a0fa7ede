"""Results -> tables: mean gains with bootstrap intervals, paired sign tests, targets. Used by `compare.py`."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Place = tuple[str, int]
"""Family and seed."""
Gains = dict[str, dict[int, dict[Place, float]]]
"""Method -> budget -> place -> gain."""
DRAWS = 2000


def sign_test(wins: int, losses: int) -> float:
    """Two-sided, exact; ties are left out by the caller."""
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(max(wins, losses), n + 1)) / 2**n
    return min(1.0, 2 * tail)


def interval(gains: Mapping[Place, float]) -> tuple[float, float]:
    """95 %, by a bootstrap of families, and of seeds within each: both are samples of what there could be."""
    by_family: dict[str, list[float]] = {}
    for (family, _), gain in sorted(gains.items()):
        by_family.setdefault(family, []).append(gain)
    draw, names, means = random.Random(0), list(by_family), list[float]()
    for _ in range(DRAWS):
        chosen = draw.choices(names, k=len(names))
        means.append(statistics.fmean(statistics.fmean(draw.choices(g := by_family[f], k=len(g))) for f in chosen))
    means.sort()
    return means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS)]


def mean(gains: Mapping[Place, float]) -> float:
    """Of the families' means."""
    return statistics.fmean(gains.values())


def pairs(first: Mapping[Place, float], second: Mapping[Place, float]) -> tuple[int, int, int]:
    """Places where the first is ahead, where the second is, and ties; of those that both have."""
    both = first.keys() & second.keys()
    differences = [round(first[place] - second[place], 9) for place in both]
    return sum(d > 0 for d in differences), sum(d < 0 for d in differences), sum(d == 0 for d in differences)


def gains_table(gains: Gains, budgets: Sequence[int]) -> str:
    """A row for each method."""
    lines = ["| method | runs | " + " | ".join(f"{budget:,} rollouts" for budget in budgets) + " |"]
    lines.append("|---|---|" + "---|" * len(budgets))
    for name, found in gains.items():
        cells: list[str] = []
        for budget in budgets:
            here = found.get(budget)
            cells.append("-" if not here else "{:.3f} [{:.3f}, {:.3f}]".format(mean(here), *interval(here)))
        runs = max((len(each) for each in found.values()), default=0)
        lines.append(f"| {name} | {runs} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def families_table(gains: Gains, budget: int) -> str:
    """Mean gain of each method in each family, at one budget."""
    names = [name for name in gains if gains[name].get(budget)]
    families = sorted({family for name in names for family, _ in gains[name][budget]})
    lines = [f"| {budget:,} rollouts | " + " | ".join(families) + " |", "|---|" + "---|" * len(families)]
    for name in names:
        by_family = {f: [g for (ff, _), g in gains[name][budget].items() if ff == f] for f in families}
        cells = (f"{statistics.fmean(each):.2f}" if each else "-" for each in by_family.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tests_table(gains: Gains, ours: str, budgets: Sequence[int]) -> tuple[str, int]:
    """`ours` against each other method, pair by pair, with what is asked; and how many targets are missed."""
    lines = ["| against | rollouts | difference | ahead, behind, ties | p | asked | |", "|---|---|---|---|---|---|---|"]
    missed = 0
    for name, found in gains.items():
        for budget in budgets:
            mine, theirs = gains[ours].get(budget, {}), found.get(budget, {})
            both = mine.keys() & theirs.keys()
            if name == ours or not both:
                continue
            difference = statistics.fmean(mine[place] - theirs[place] for place in both)
            wins, losses, ties = pairs(mine, theirs)
            p = sign_test(wins, losses)
            asked, met = _asked(name, budget, wins, losses, p)
            missed += met is False
            verdict = "" if met is None else "met" if met else "MISSED"
            cells = [name, f"{budget:,}", f"{difference:+.3f}", f"{wins}, {losses}, {ties}", f"{p:.2g}", asked, verdict]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines), missed


def _asked(name: str, budget: int, wins: int, losses: int, p: float) -> tuple[str, bool | None]:
    if name.startswith("upstream") or (name == "gepa, best" and budget < 1000):
        return "ahead, p < 0.05", wins > losses and p < 0.05
    if name == "gepa, best":
        return "not behind", wins >= losses or p >= 0.05
    return "", None


def rows(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of a driver's lines those with figures."""
    return [line for line in found if "gain" in line]
