"""`facts_of`: the state of a run as plain data, from which page, pictures and files are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from ..candidate import Candidate
from ..outcome import Split
from ..state import Round, State
from ..stats import UNBOUNDED, Bounds, Comparison, Interval, compare, mean_interval

SPLITS: tuple[Split, ...] = get_args(Split)
_LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate."""

    candidate: Candidate
    fate: str
    """`start`, `best`, `kept` (parents may still be chosen from it), `dropped`, `gated out`, `not tried`."""
    val: Interval | None
    """Mean validation reward with its interval; `None` without a rollout."""
    gain: float | None
    """Mean difference from the start, on the validation tasks that both were tried on."""
    train: float | None
    """Mean reward on train tasks."""
    train_n: int

    @property
    def id(self) -> str:
        return self.candidate.id


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Start and best on the test tasks, which had no part in the choice."""

    start: Interval
    best: Interval
    comparison: Comparison | None
    """Paired, task by task; `None` where the start itself is the best."""

    def describe(self) -> str:
        """In one line."""
        line = f"{self.start.mean:.3f} -> {self.best.mean:.3f} on {self.best.n} held-out tasks"
        if self.comparison is None:
            return f"{self.best.mean:.3f} [{self.best.low:.3f}, {self.best.high:.3f}] on {self.best.n} held-out tasks"
        c = self.comparison
        return f"{line}: {c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}], paired {c.method} test p = {c.p:.2g}"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the report shows."""

    rows: list[Row]
    """In the order in which they were made, the start first."""
    best: Row
    rounds: list[Round]
    curve: list[tuple[int, float]]
    """(rollouts paid, mean validation reward of the best so far), after each round."""
    held_out: HeldOut | None
    rejected: dict[str, int]
    """Why proposals were turned down -> how many, most first."""
    proposed: int
    cost: str
    """The ledger in one line."""
    spent: dict[str, Any]
    plan: Mapping[str, Any]
    ended: str
    """Why the run ended; empty while it goes on."""
    failures: dict[str, int] = field(default_factory=dict[str, int])
    """What rollouts failed with -> how many, most first."""
    paid_at: dict[str, int] = field(default_factory=dict[str, int])
    """Candidate id -> rollouts paid by the end of its round."""

    @property
    def start(self) -> Row:
        return self.rows[0]


def facts_of(state: State, plan: Mapping[str, Any], ended: str = "") -> Facts:
    """What there is to tell of a run, at any moment.

    Args:
        state: Of the run.
        plan: Its settings, to be shown.
        ended: Why it ended; empty while it goes on.
    """
    best = state.best or state.candidates[0]
    gated = {name for now in state.rounds for name in now.gated}
    bounds = bounds_of(state)
    rows = [_row(state, candidate, best, gated, bounds) for candidate in state.candidates]
    return Facts(
        rows=rows,
        best=next(row for row in rows if row.id == best.id),
        rounds=list(state.rounds),
        curve=_curve(state, rows[0]),
        held_out=_held_out(state, best, bounds),
        failures=_failures(state),
        rejected=_rejected(state.rounds),
        proposed=sum(now.proposed for now in state.rounds),
        cost=state.ledger.line(),
        spent=state.ledger.spent.to_dict(),
        plan=plan,
        ended=ended,
        paid_at={name: now.rollouts for now in state.rounds for name in now.admitted},
    )


def bounds_of(state: State) -> Bounds:
    """0 and 1 where all rewards of the run lie there, so that no interval claims a reward that there can't be."""
    rewards = [
        reward
        for candidate in state.candidates
        for split in SPLITS
        for reward in state.scores(candidate, split).values()
    ]
    return (0.0, 1.0) if all(0 <= reward <= 1 for reward in rewards) else UNBOUNDED


def _row(state: State, candidate: Candidate, best: Candidate, gated: set[str], bounds: Bounds) -> Row:
    val, train = state.scores(candidate), state.scores(candidate, "train")
    return Row(
        candidate,
        _fate(state, candidate, best, gated, tried=bool(val)),
        mean_interval(list(val.values()), bounds=bounds) if val else None,
        _gain(val, state.scores(state.candidates[0])),
        sum(train.values()) / len(train) if train else None,
        len(train),
    )


def _fate(state: State, candidate: Candidate, best: Candidate, gated: set[str], *, tried: bool) -> str:
    if candidate.id == best.id:
        return "best"
    if candidate is state.candidates[0]:
        return "start"
    if any(candidate.id == kept.id for kept in state.archive):
        return "kept"
    if candidate.id not in gated:
        return "gated out" if state.scores(candidate, "train") else "not tried"
    return "dropped" if tried else "not tried"


def _gain(val: Mapping[int, float], start: Mapping[int, float]) -> float | None:
    common = val.keys() & start.keys()
    return sum(val[task] - start[task] for task in sorted(common)) / len(common) if common else None


def _curve(state: State, start: Row) -> list[tuple[int, float]]:
    before = [(start.val.n, start.val.mean)] if start.val and state.rounds else []
    first = state.rounds[0].rollouts if state.rounds else 0
    points = [(now.rollouts, now.best_score) for now in state.rounds]
    return [point for point in before if point[0] < first] + points


def _held_out(state: State, best: Candidate, bounds: Bounds) -> HeldOut | None:
    start = state.candidates[0]
    one, two = state.scores(start, "test"), state.scores(best, "test")
    tasks = sorted(one.keys() & two.keys())
    if not tasks:
        return None
    before, after = [one[task] for task in tasks], [two[task] for task in tasks]
    comparison = compare(before, after, bounds=bounds) if best.id != start.id else None
    return HeldOut(mean_interval(before, bounds=bounds), mean_interval(after, bounds=bounds), comparison)


def _failures(state: State) -> dict[str, int]:
    errors = [
        " ".join(outcome.error.split())[:_LONGEST_ERROR]
        for candidate in state.candidates
        for split in SPLITS
        for outcome in state.trials.outcomes(candidate, split)
        if outcome.failed
    ]
    return dict(Counter(errors).most_common())


def _rejected(rounds: list[Round]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for now in rounds:
        for reason, count in now.rejected.items():
            counts[reason] = counts.get(reason, 0) + count
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
