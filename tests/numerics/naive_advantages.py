"""The estimators as loops over Python numbers, straight from their formulas; the tests' independent reference.

Rows are lists. Every function takes the columns it reads and returns advantages and returns as lists of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Rows = list[list[float]]
Result = tuple[Rows, Rows]


def groups_of(index: Sequence[Any]) -> list[list[int]]:
    members: dict[Any, list[int]] = {}
    for row, label in enumerate(index):
        members.setdefault(label, []).append(row)
    return list(members.values())


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def deviation(numbers: Sequence[float]) -> float:
    centre = mean(numbers)
    return math.sqrt(sum((x - centre) ** 2 for x in numbers) / (len(numbers) - 1))


def spread(scalars: Sequence[float], mask: Rows) -> Result:
    rows = [[scalar * m for m in row] for scalar, row in zip(scalars, mask, strict=True)]
    return rows, rows


def whiten(rows: Rows, mask: Rows) -> Rows:
    valid = [x for row, ms in zip(rows, mask, strict=True) for x, m in zip(row, ms, strict=True) if m]
    centre = sum(valid) / (len(valid) + 1e-8)
    variance = sum((x - centre) ** 2 for x in valid) / (len(valid) + 1e-8) * len(valid) / (len(valid) - 1)
    return [[(x - centre) / math.sqrt(variance + 1e-8) for x in row] for row in rows]


def masked(rows: Rows, mask: Rows) -> Rows:
    return [[x if m else 0.0 for x, m in zip(row, ms, strict=True)] for row, ms in zip(rows, mask, strict=True)]


def grpo_scalars(scores: Sequence[float], index: Sequence[Any], norm: bool) -> list[float]:
    result = [0.0] * len(scores)
    for group in groups_of(index):
        values = [scores[i] for i in group]
        centre, unit = (mean(values), deviation(values)) if len(group) > 1 else (0.0, 1.0)
        for i in group:
            result[i] = (scores[i] - centre) / (unit + 1e-6) if norm else scores[i] - centre
    return result


def grpo(rewards: Rows, mask: Rows, index: Sequence[Any], norm: bool = True, **_: Any) -> Result:
    return spread(grpo_scalars([sum(row) for row in rewards], index, norm), mask)


def gdpo(rewards: Rows, mask: Rows, index: Sequence[Any], components: Any, norm: bool = True, **_: Any) -> Result:
    total = [0.0] * len(rewards)
    for values, weight in components:
        total = [a + weight * b for a, b in zip(total, grpo_scalars(values, index, norm), strict=True)]
    rows = masked(whiten(spread(total, mask)[0], mask), mask)
    return rows, rows


def passk(rewards: Rows, mask: Rows, index: Sequence[Any], norm: bool = True, **_: Any) -> Result:
    result = [0.0] * len(rewards)
    for group in groups_of(index):
        values = {i: sum(rewards[i]) for i in group}
        best, second = sorted(group, key=lambda i: -values[i])[:2]
        result[best] = (values[best] - values[second]) / (deviation(list(values.values())) + 1e-6 if norm else 1.0)
    return spread(result, mask)


def rloo(rewards: Rows, mask: Rows, index: Sequence[Any], alone: float = 1.0, **_: Any) -> Result:
    result = [0.0] * len(rewards)
    for group in groups_of(index):
        for i in group:
            others = [sum(rewards[j]) for j in group if j != i]
            result[i] = sum(rewards[i]) - mean(others) if others else alone * sum(rewards[i])
    return spread(result, mask)


def opo(rewards: Rows, mask: Rows, index: Sequence[Any], **_: Any) -> Result:
    result = [0.0] * len(rewards)
    for group in groups_of(index):
        tokens = sum(sum(mask[j]) for j in group)
        weighted = sum(sum(mask[j]) * sum(rewards[j]) for j in group)
        for i in group:
            result[i] = sum(rewards[i]) - (weighted / tokens if len(group) > 1 and tokens else 0.0)
    return spread(result, mask)


def gpg(rewards: Rows, mask: Rows, index: Sequence[Any], **_: Any) -> Result:
    scores = [sum(row) for row in rewards]
    alpha = len(scores) / max(sum(score != 0 for score in scores), 1)
    return spread([alpha * a for a in grpo_scalars(scores, index, norm=False)], mask)


def reinforce_plus_plus_baseline(rewards: Rows, mask: Rows, index: Sequence[Any], **_: Any) -> Result:
    centred = grpo_scalars([sum(row) for row in rewards], index, norm=False)
    rows = masked(whiten(spread(centred, mask)[0], mask), mask)
    return rows, rows


def reinforce_plus_plus(rewards: Rows, mask: Rows, gamma: float, **_: Any) -> Result:
    returns: Rows = []
    for row, ms in zip(rewards, mask, strict=True):
        running, out = 0.0, [0.0] * len(row)
        for t in reversed(range(len(row))):
            if ms[t]:
                running = out[t] = row[t] + gamma * running
        returns.append(out)
    return masked(whiten(returns, mask), mask), returns


def to_go(rewards: Rows, mask: Rows) -> Rows:
    return [
        [sum(r for r, m in zip(row[t:], ms[t:], strict=True) if m) for t in range(len(row))]
        for row, ms in zip(rewards, mask, strict=True)
    ]


def remax(rewards: Rows, mask: Rows, baselines: Sequence[float], **_: Any) -> Result:
    returns = to_go(rewards, mask)
    advantages = [
        [g - b * m for g, m in zip(row, ms, strict=True)] for row, ms, b in zip(returns, mask, baselines, strict=True)
    ]
    return advantages, returns


def gae(rewards: Rows, mask: Rows, values: Rows, gamma: float, lam: float, **_: Any) -> Result:
    advantages: Rows = []
    for row, ms, vs in zip(rewards, mask, values, strict=True):
        value, carry, out = 0.0, 0.0, [0.0] * len(row)
        for t in reversed(range(len(row))):
            if ms[t]:
                carry = row[t] + gamma * value - vs[t] + gamma * lam * carry
                value = vs[t]
            out[t] = carry
        advantages.append(out)
    returns = [[a + v for a, v in zip(row, vs, strict=True)] for row, vs in zip(advantages, values, strict=True)]
    return whiten(advantages, mask), returns


def token_baseline(
    rewards: Rows,
    mask: Rows,
    index: Sequence[Any],
    old_log_probs: Rows,
    sum_pi_squared: Rows,
    is_weights: Rows | None = None,
    compact: bool = False,
    cut: bool = True,
    **_: Any,
) -> Result:
    returns = to_go(rewards, mask)
    length = len(mask[0])
    shares: Rows = []
    for i, ms in enumerate(mask):
        total, out = 0.0, [0.0] * length
        for t in range(length):
            if ms[t]:
                share = 1 - 2 * math.exp(old_log_probs[i][t]) + sum_pi_squared[i][t]
                total += share * (is_weights[i][t] ** 2 if is_weights else 1.0)
                out[t] = total
        shares.append(out)
    advantages = masked(returns, mask)
    for group in groups_of(index):
        rows = [i for i in group if not compact or any(mask[i])]
        if len(rows) < 2:
            continue
        # Where the k-th compared token of each row stands.
        places = {i: [t for t in range(length) if mask[i][t]] if compact else list(range(length)) for i in rows}
        counts = sorted((sum(mask[i]) for i in rows), reverse=True)
        for k in range(length):
            here = [(i, places[i][k]) for i in rows if k < len(places[i]) and mask[i][places[i][k]]]
            weight = sum(shares[i][t] for i, t in here)
            baseline = sum(shares[i][t] * returns[i][t] for i, t in here) / (weight + 1e-8)
            for i, t in here:
                lonely = cut and counts[0] > counts[1] and sum(mask[i]) == counts[0] and k >= counts[1]
                advantages[i][t] -= 0.0 if lonely else baseline
    return advantages, returns


REFERENCES: dict[str, Callable[..., Result]] = {
    "gae": gae,
    "grpo": grpo,
    "grpo_vectorized": grpo,
    "grpo_passk": passk,
    "gdpo": gdpo,
    "rloo": rloo,
    "rloo_vectorized": lambda *args, **kwargs: rloo(*args, **{**kwargs, "alone": 0.0}),
    "opo": opo,
    "gpg": gpg,
    "reinforce_plus_plus": reinforce_plus_plus,
    "reinforce_plus_plus_baseline": reinforce_plus_plus_baseline,
    "remax": remax,
    "optimal_token_baseline": token_baseline,
    "tir_optimal_token_baseline": lambda *args, **kwargs: token_baseline(*args, **{**kwargs, "compact": True}),
}
