"""Validation scores under verl's names: mean, best, worst and majority of n answers to each prompt.

Called by `metrics.val_metrics` and `agl eval`. numpy only. `report.validation` prints what this returns.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 42
"""Of the bootstrap, anew for each prompt and size, so that no prompt's number depends on another's."""
Z95 = 1.959964
"""Quantile of the normal distribution that 2.5 % lie above."""

Floats = NDArray[np.float64]


def validation_metrics(
    sources: Sequence[str],
    prompts: Sequence[Hashable],
    values: Mapping[str, Sequence[float | None]],
    *,
    pred: Sequence[str | None] | None = None,
    fill: float = 0.0,
) -> dict[str, float]:
    """Metrics of all answers of a validation (verl's `val-core|val-aux/<source>/<variable>/...`).

    For N answers to a prompt: `mean@N`, and for N above 1 `std@N` (population), and for k = 2, 4, ... N
    `best@k/{mean,std}`, `worst@k/{mean,std}` and, with `pred`, `maj@k/{mean,std}`: mean and standard deviation over
    1,000 resamples of k of the N answers; all of it then averaged over the prompts of a source. The core variable of a
    source is `acc` where it has one, else `reward`; its mean, best and maj at N are `val-core`, the rest is `val-aux`.
    Of the core variable there are also `mean@N/ci95_low` and `ci95_high`, and the same of `best@N`, see `interval`.

    Args:
        sources: (S,) data source of each answer.
        prompts: (S,) which prompt it answers, within the source.
        values: By variable, (S,) numbers; `None` where an answer has none, which counts as `fill` within a source
            that has the variable. `reward` every source has.
        pred: (S,) what each answer says, for the majority vote; `None` is a vote of its own.
        fill: See `values`.
    """
    metrics: dict[str, float] = {}
    for source in dict.fromkeys(sources):
        members = [i for i, other in enumerate(sources) if other == source]
        groups: dict[Hashable, list[int]] = {}
        for i in members:
            groups.setdefault(prompts[i], []).append(i)
        here = {
            name: column
            for name, column in values.items()
            if name == "reward" or any(column[i] is not None for i in members)
        }
        core = "acc" if "acc" in here else "reward"
        votes = pred if pred is not None and any(pred[i] is not None for i in members) else None
        for name, column in here.items():
            filled = np.array([fill if value is None else value for value in column], np.float64)
            found = _of_variable(filled, list(groups.values()), votes)
            largest = max(map(len, groups.values()))
            for metric, numbers in found.items():
                section = "val-core" if name == core and _is_core(metric, largest) else "val-aux"
                metrics[f"{section}/{source}/{name}/{metric}"] = float(np.mean(numbers))
            if name == core:
                means = [float(filled[members].mean()) for members in groups.values()]
                metrics |= _interval_metrics(f"val-aux/{source}/{name}/mean@{largest}", means)
                if best := found.get(f"best@{largest}/mean"):
                    metrics |= _interval_metrics(f"val-aux/{source}/{name}/best@{largest}", best)
    return metrics


def _interval_metrics(name: str, means: Sequence[float]) -> dict[str, float]:
    low, high = interval(means)
    return {f"{name}/ci95_low": low, f"{name}/ci95_high": high}


def answer_values(
    rewards: Sequence[float | None], dimensions: Sequence[Mapping[str, float]]
) -> dict[str, list[float | None]]:
    """What `validation_metrics` takes as `values`.

    Args:
        rewards: (S,) final reward of each answer.
        dimensions: (S,) by name, every dimension of its reward; the nameless one (`primary`) is `rewards`.
    """
    names = dict.fromkeys(name for each in dimensions for name in each if name not in ("reward", "primary"))
    return {"reward": [*rewards], **{name: [each.get(name) for each in dimensions] for name in names}}


def source_of(task: Any) -> str:
    """The data source that a task names; `unknown` where it names none."""
    source = cast("Mapping[str, Any]", task).get("data_source") if isinstance(task, Mapping) else None
    return "unknown" if source is None else str(source)


def interval(means: Sequence[float] | Floats) -> tuple[float, float]:
    """A 95 % interval of the mean over prompts; answers to one prompt are not independent, prompts are.

    For scores from 0 to 1 Wilson's interval, with the number of prompts in effect taken from their variance, so that
    10 of 10 is not certainty. Otherwise the normal one.

    Args:
        means: (P,) mean score of each prompt.
    """
    x = np.asarray(means, np.float64)
    count, mean = len(x), float(x.mean())
    error = float(x.std(ddof=1)) / count**0.5 if count > 1 else 0.0
    if x.min() < 0 or x.max() > 1:
        return mean - Z95 * error, mean + Z95 * error
    # The number of independent yes/no answers that would be as uncertain; never fewer than there are prompts.
    n = max(mean * (1 - mean) / error**2, count) if error > 0 else count
    centre = (mean + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * (mean * (1 - mean) / n + Z95**2 / (4 * n * n)) ** 0.5
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _is_core(metric: str, largest: int) -> bool:
    kind, _, rest = metric.partition("@")
    return kind in ("mean", "best", "maj") and rest.split("/")[0] == str(largest)


def _of_variable(
    values: Floats, groups: Sequence[Sequence[int]], votes: Sequence[str | None] | None
) -> dict[str, list[float]]:
    """Each metric, of each prompt that has it."""
    collected: dict[str, list[float]] = {}
    for members in groups:
        own = values[list(members)]
        for metric, value in _of_prompt(own, None if votes is None else [votes[i] for i in members]).items():
            collected.setdefault(metric, []).append(value)
    return collected


def _of_prompt(values: Floats, votes: Sequence[str | None] | None) -> dict[str, float]:
    n = len(values)
    metrics = {f"mean@{n}": float(values.mean())}
    if n == 1:
        return metrics
    metrics[f"std@{n}"] = float(values.std())
    for k in _sizes(n):
        drawn = _resamples(n, k)
        metrics |= _moments(f"best@{k}", values[drawn].max(axis=1))
        metrics |= _moments(f"worst@{k}", values[drawn].min(axis=1))
        if votes is not None:
            metrics |= _moments(f"maj@{k}", values[_elected(drawn, votes)])
    return metrics


def _moments(name: str, values: Floats) -> dict[str, float]:
    return {f"{name}/mean": float(values.mean()), f"{name}/std": float(values.std())}


def _sizes(n: int) -> list[int]:
    """2, 4, 8, ... below n, and n."""
    return [*(2**power for power in range(1, n.bit_length()) if 2**power < n), n]


@lru_cache(maxsize=64)
def _resamples(n: int, k: int) -> NDArray[np.int64]:
    """(RESAMPLES, k) indices below n, with replacement."""
    return np.random.RandomState(SEED).choice(n, size=(RESAMPLES, k), replace=True)


def _elected(drawn: NDArray[np.int64], votes: Sequence[str | None]) -> NDArray[np.int64]:
    """(RESAMPLES,) of each resample the first answer that says what most of it say; of equals the first one met."""
    _, codes = np.unique(
        [f"v{vote}" if vote is not None else f"n{i}" for i, vote in enumerate(votes)], return_inverse=True
    )
    cast = codes[drawn]
    counts = (cast[:, :, None] == cast[:, None, :]).sum(axis=2)
    first = counts.argmax(axis=1)
    return drawn[np.arange(len(drawn)), first]
