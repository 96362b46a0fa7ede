"""Live progress of prompt optimisation: the best candidates, their scores and the cost. `APO` calls it.

Where the output is no terminal there is one plain line a round.
"""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from agentlightning.report.live import LiveDisplay

from .candidate import Candidate
from .report import Facts, bounds_of
from .state import Round, State
from .stats import Bounds, mean_interval

_SHOWN = 8
"""Candidates in the table."""


class Progress(LiveDisplay):
    """What a run does and how its prompts do. A context manager.

    Args:
        rounds: At most.
        enabled: False shows nothing.
        console: Where to write; default standard output.
    """

    def __init__(self, rounds: int, *, enabled: bool = True, console: Console | None = None) -> None:
        super().__init__("round", rounds, enabled=enabled, console=console)
        self._table: RenderableType = Text("trying the start", style="dim")
        self._cost = Text("")
        self._said = 0
        """The round of the last line."""

    def below(self) -> tuple[RenderableType, ...]:
        return self._table, self._cost

    def rollouts(self, done: int, total: int) -> None:
        """Show how many of the rollouts under way are finished."""
        self._bars.update(self._phase, description="rollouts", completed=done, total=total, visible=done < total)

    def round_done(self, state: State) -> None:
        """Show how a run stands after a round."""
        self._bars.update(self._run, completed=state.round)
        self._cost = Text(state.ledger.line(), style="dim")
        if self._live is not None:
            self._table = _table(state)
        elif state.rounds:
            again = "" if state.round != self._said else " at the end"
            self.say(f"round {state.round}/{self.total}{again}  {describe_round(state)}")
            self._said = state.round

    def finished(self, facts: Facts) -> None:
        """Say how the run ended."""
        self.stop()
        self.say(f"ended: {facts.ended}")
        self.say(f"best: {facts.best.id}{_scores(facts)}")
        if facts.held_out is not None:
            self.say(f"held-out reward: {facts.held_out.describe()}")
        self.say(f"cost: {facts.cost}")


def _scores(facts: Facts) -> str:
    start, best = facts.start.val, facts.best.val
    if facts.best.id == facts.start.id:
        return ", the start: nothing better was found"
    if best is None:
        return ""
    # The start may have been tried on fewer tasks.
    tasks = "" if start is None or start.n == best.n else f" on {start.n}"
    before = "" if start is None else f" (start {start.mean:.3f}{tasks})"
    return f", validation {best.mean:.3f}{f' on {best.n} tasks' if tasks else ''}{before}"


def describe_round(state: State) -> str:
    """What a round came to, in the numbers that a person watches."""
    now = state.rounds[-1]
    start = state.mean(state.candidates[0])
    before = "" if start is None else f" (start {start:.3f})"
    parts = [f"best {now.best} {now.best_score:.3f}{before}", *_counts(now), state.ledger.line()]
    return "  ".join(parts)


def _counts(now: Round) -> list[str]:
    counts = [f"{len(now.admitted)} new"]
    if len(now.gated) != len(now.admitted):
        counts.append(f"{len(now.gated)} through the gate")
    if turned := sum(now.rejected.values()):
        counts.append(f"{turned} turned down")
    return [", ".join(counts)]


def _table(state: State) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("", "candidate", "made by", "of"):
        table.add_column(name)
    for name in ("round", "validation", "95% interval", "tasks"):
        table.add_column(name, justify="right")
    best = state.best or state.candidates[0]
    tried = [each for each in state.ranked(state.candidates) if state.scores(each)]
    # The best by the evaluator's word comes first; a mean over few tasks may be higher.
    rows = [best, *(each for each in tried if each.id != best.id)][:_SHOWN]
    start, bounds = state.candidates[0], bounds_of(state)
    for candidate in [*rows, *([start] if all(start.id != row.id for row in rows) else [])]:
        table.add_row(*_cells(state, candidate, best, bounds))
    return table


def _cells(state: State, candidate: Candidate, best: Candidate, bounds: Bounds) -> list[str]:
    mark = "best" if candidate.id == best.id else "start" if candidate.operator == "seed" else ""
    made = [mark, candidate.id, candidate.operator, ", ".join(candidate.parents), str(candidate.round)]
    values = list(state.scores(candidate).values())
    if not values:
        return [*made, "", "", ""]
    interval = mean_interval(values, bounds=bounds)
    return [*made, f"{interval.mean:.3f}", f"{interval.low:.3f} to {interval.high:.3f}", str(len(values))]
