"""From results to Markdown: the comparison, gradient noise, entropy, and their place in `docs/algorithms.md`.

Pure functions over the JSON that `one` writes; called by `compare`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .fit import EntropyFit, entropy_fit
from .matrix import ALGORITHMS, ENTROPY, THRESHOLD, WINDOW
from .variance import TITLES

Result = Mapping[str, Any]
LEAST_GAIN = 0.15


@dataclass(frozen=True, slots=True)
class Line:
    """One algorithm over its seeds. Rewards are greedy, on held-out problems."""

    name: str
    seeds: int
    start: float
    end: float
    interval: float
    """Half of the 95 % interval of `end`: problems and seeds are drawn, the larger of both errors counts."""
    gain: float
    error: float
    """Standard error of the mean gain, of the problems. The start is one evaluation, however many seeds begin there."""
    clear: bool
    """Every seed ended two standard errors above its start."""
    seconds: float
    cpu_seconds: float
    rollouts: float | None
    """Until the sampled reward reached `THRESHOLD`, median over seeds; infinite where most of them never did."""
    held: float | None
    memory: float
    """MiB of the process' peak above that of one that only samples from the warm start; the least of the seeds."""

    @property
    def improved(self) -> bool:
        return self.clear and self.gain >= LEAST_GAIN


def line(name: str, starts: Sequence[Result], results: Sequence[Result], idle_mib: float) -> Line:
    """Sum up the runs of an algorithm.

    Args:
        name: A key of `ALGORITHMS`.
        starts: For each run, the evaluation of the model that it began with.
        results: The runs.
        idle_mib: Peak memory of a process that only samples.
    """
    before, after = (np.array([each["reward"] for each in side]) for side in (starts, results))
    errors = np.array([_error(a, b) for a, b in zip(starts, results, strict=True)])
    seeds = len(results)
    of_problems = _sum_error([_binomial(each) for each in results])
    of_seeds = float(after.std(ddof=1)) / seeds**0.5 if seeds > 1 else 0.0
    reached = [rollouts_until(each["rewards"], each["rollouts"]) for each in results if "rewards" in each]
    return Line(
        name,
        seeds,
        float(before.mean()),
        float(after.mean()),
        1.96 * max(of_problems, of_seeds),
        float((after - before).mean()),
        float(np.hypot(np.mean([_binomial(each) for each in starts]), of_problems)),
        bool(np.all(after - before > 2 * errors)),
        float(np.mean([each["wall_s"] for each in results])),
        float(np.mean([each["cpu_s"] for each in results])),
        float(np.median(reached)) if reached else None,
        max((each["held"] for each in results if "held" in each), default=None),
        min(each["peak_mib"] for each in results) - idle_mib,
    )


def recent_means(values: Sequence[float], rollouts: Sequence[float], window: float = WINDOW) -> list[float | None]:
    """For each step the mean over the last `window` rollouts, whole steps at a time; `None` before there are so many.

    Args:
        values: Mean of each step's rollouts.
        rollouts: How many each step had.
    """
    result: list[float | None] = []
    for step in range(len(values)):
        first, count = step, rollouts[step]
        while count < window and first > 0:
            first -= 1
            count += rollouts[first]
        part = slice(first, step + 1)
        result.append(float(np.average(values[part], weights=rollouts[part])) if count >= window else None)
    return result


def rollouts_until(
    rewards: Sequence[float], rollouts: Sequence[float], threshold: float = THRESHOLD, window: float = WINDOW
) -> float:
    """Rollouts sampled until the last `window` of them had a mean reward of `threshold`; infinite if they never had."""
    for step, mean in enumerate(recent_means(rewards, rollouts, window)):
        if mean is not None and mean >= threshold:
            return float(sum(rollouts[: step + 1]))
    return float("inf")


def _binomial(result: Result) -> float:
    """Standard error of a mean of rewards that are 0 or 1."""
    return float((result["reward"] * (1 - result["reward"]) / result["problems"]) ** 0.5)


def _error(start: Result, end: Result) -> float:
    """Standard error of a gain. The problems are the same, so that it is too large rather than too small."""
    return float(np.hypot(_binomial(start), _binomial(end)))


def _sum_error(errors: Sequence[float]) -> float:
    """Standard error of a mean of independent numbers."""
    return float(np.sqrt(np.sum(np.square(errors)))) / len(errors)


# -- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def comparison(lines: Sequence[Line]) -> str:
    """The whole table."""
    header = (
        "algorithm",
        "start",
        "end",
        "gain",
        "improved",
        f"rollouts to {THRESHOLD}",
        "critic",
        "numbers held, in models",
        "memory, MiB",
        "seconds",
    )
    return markdown(header, [_cells(each) for each in lines])


def _cells(each: Line) -> list[str]:
    return [
        ALGORITHMS[each.name].title,
        f"{each.start:.3f}",
        f"{each.end:.3f} ± {each.interval:.3f}",
        f"{each.gain:+.3f} ± {each.error:.3f}",
        "yes" if each.improved else "no",
        _reached(each),
        "yes" if ALGORITHMS[each.name].critic else "no",
        "" if each.held is None else f"{each.held:.0f}",
        f"{each.memory:+.0f}",
        f"{each.seconds:.0f} (CPU {each.cpu_seconds:.0f})",
    ]


def _reached(each: Line) -> str:
    if each.rollouts is None:
        return "supervised"
    return f"{each.rollouts:,.0f}" if np.isfinite(each.rollouts) else "not reached"


def noise_table(found: Result) -> str:
    """Gradient noise by estimator, its two parts, and how many rollouts of RLOO each is worth."""
    noises = found["noise"]
    rows = [
        [
            TITLES[name],
            f"{each['trace']:.3g}",
            f"{each['signal']:.3g}",
            f"{each['value']:.2f} ± {each['error']:.2f}",
            f"{each['value'] / noises['rloo']['value']:.2f}",
        ]
        for name, each in noises.items()
    ]
    return markdown(("estimator", "tr Cov", "norm² of the mean", "noise, their ratio", "to RLOO"), rows)


def entropy_points(runs: Sequence[Result]) -> tuple[list[float], list[float]]:
    """Entropy and reward of all runs, each the mean over the last `WINDOW` rollouts.

    Of single steps the tasks would be seen more than the policy: hard ones make the entropy high and the reward low.
    """
    points = [point for run in runs for point in _points(run)]
    return [entropy for entropy, _ in points], [reward for _, reward in points]


def _points(run: Result) -> list[tuple[float, float]]:
    """(entropy, reward) of a run; a step without an update has no entropy and is left out."""
    steps = [
        step for step in zip(run["entropies"], run["rewards"], run["rollouts"], strict=True) if step[0] is not None
    ]
    entropies, rewards, rollouts = ([step[i] for step in steps] for i in range(3))
    means = zip(recent_means(entropies, rollouts), recent_means(rewards, rollouts), strict=True)
    return [(entropy, reward) for entropy, reward in means if entropy is not None and reward is not None]


def entropy_fits(results: Mapping[str, Sequence[Result]]) -> dict[str, EntropyFit]:
    """The law of entropy and reward for each algorithm of `ENTROPY` that ran, over all its seeds."""
    return {name: entropy_fit(*entropy_points(results[name])) for name in ENTROPY if results.get(name)}


def entropy_table(fits: Mapping[str, EntropyFit], results: Mapping[str, Sequence[Result]]) -> str:
    rows = [
        [
            ALGORITHMS[name].title,
            f"{fit.a:.2f}",
            f"{fit.b:.2f}",
            f"{fit.r2:.2f}",
            f"{fit.ceiling:.2f}",
            f"{_ends(results[name], 0):.3f} -> {_ends(results[name], -1):.3f}",
        ]
        for name, fit in fits.items()
    ]
    return markdown(("algorithm", "a", "b", "R²", "R at H = 0", "entropy, first -> last"), rows)


def _ends(runs: Sequence[Result], end: int) -> float:
    """Mean entropy of the first (0) or last (-1) `WINDOW` rollouts."""
    return float(np.mean([_points(run)[end][0] for run in runs]))


# -- the page ---------------------------------------------------------------------------------------------------------

FIXED_COLUMNS = 6
"""Columns of the page's first table that are not measured."""


def with_measured_columns(table: str, lines: Sequence[Line]) -> str:
    """The page's comparison table with the measured columns anew; its own columns stay as they are."""
    by_title = {ALGORITHMS[each.name].title: each for each in lines}
    rows = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in table.strip().splitlines()]
    result = [[*rows[0][:FIXED_COLUMNS], "gain here", f"rollouts to {THRESHOLD} here", "numbers held here, in models"]]
    for row in rows[2:]:
        found = by_title.get(row[0])
        measured = ["", "", ""] if found is None else [_cells(found)[i] for i in (3, 5, 7)]
        result.append([*row[:FIXED_COLUMNS], *measured])
    return markdown(result[0], result[1:])


def between(page: str, marker: str) -> str:
    """What stands between `<!-- marker -->` and `<!-- /marker -->`.

    Raises:
        ValueError: the markers are not there.
    """
    found = re.search(rf"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", page, re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no `<!-- {marker} -->` with its end")
    return found[1]


def replaced(page: str, marker: str, text: str) -> str:
    """The page with something else between the markers.

    Raises:
        ValueError: the markers are not there.
    """
    old = between(page, marker)
    start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    return page.replace(start + old + end, f"{start}{text.rstrip()}\n{end}")
