"""`Budget`: what a run may cost. `Ledger`: what it has cost, and whether the next step can still be paid.

What is about to be spent is reserved before and settled after, so a limit is a promise and not a place where one looks
back. `Trials` reserves rollouts, `Writer` reserves calls of critic and editor. Calls, tokens and cost count both kinds:
the agents' as they were traced, the critic's and editor's as the endpoint reports them. What a resumed run paid before
counts when it is asked for again, so that room and spending are the same as in a run that was never stopped.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from agentlightning.types import AgentLightningError, ConfigError

from .outcome import Outcome

logger = logging.getLogger(__name__)

_MARGIN = 1.5
"""A rollout to come may take so many times what the largest one took so far."""


class BudgetSpent(AgentLightningError):
    """What comes next can't be paid; nothing of it was begun. The run ends with the best so far."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(message)
        self.field = field_name
        """The field of `Budget` that is in the way."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one run; `None`: no limit. All count what the agents, the critic and the editor use together.

    Raises:
        ConfigError: a limit that is not positive, or `cost` without `prices`.
    """

    rollouts: int | None = None
    """Rollouts, those of the final report included."""
    llm_calls: int | None = None
    """Requests to LLMs, each try of one counted."""
    tokens: int | None = None
    """Input and output tokens."""
    cost: float | None = None
    """US dollars by `prices`."""
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Model name or beginning of one -> US dollars for a million input tokens, and for a million output tokens."""
    seconds: float | None = None
    """Of this process. When they are over nothing new is begun but the final report; what runs is waited for."""
    rollout_calls: int | None = None
    """The most calls that one rollout makes. Where none is given, 1.5 times the most of any rollout so far is taken."""
    rollout_tokens: int | None = None
    """The most tokens that one rollout takes. As above."""
    rollout_cost: float | None = None
    """The most US dollars that one rollout costs. As above."""

    def __post_init__(self) -> None:
        for name in ("rollouts", "llm_calls", "tokens", "rollout_calls", "rollout_tokens"):
            _check_limit(name, getattr(self, name), whole=True)
        for name in ("cost", "seconds", "rollout_cost"):
            _check_limit(name, getattr(self, name), whole=False)
        for model, price in self.prices.items():
            _check_price(model, price)
        if self.cost is not None and not self.prices:
            raise ConfigError(
                f"`cost` is {self.cost} but `prices` is empty; give US dollars per million input and output tokens, "
                "as in `prices={'gpt-5-mini': (0.25, 2.0)}`"
            )

    def price(self, model: str) -> tuple[float, float] | None:
        """US dollars for a million input and output tokens: of the longest name that `model` begins with."""
        names = [name for name in self.prices if model.startswith(name)]
        return self.prices[max(names, key=len)] if names else None

    def cost_of(self, model: str, input_tokens: int, output_tokens: int) -> float:
        """US dollars; 0 for a model without a price where `cost` is no limit.

        Raises:
            ConfigError: the model has no price, and `cost` is a limit.
        """
        if not input_tokens and not output_tokens:
            return 0.0
        if (price := self.price(model)) is None:
            if self.cost is not None:
                raise ConfigError(f"`cost` is a limit but `prices` has none for model {model!r}; add one")
            return 0.0
        return (price[0] * input_tokens + price[1] * output_tokens) / 1e6


def _check_limit(name: str, value: Any, whole: bool) -> None:
    if value is None:
        return
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0 or not math.isfinite(value):
        kind = "a whole number" if whole else "a number"
        raise ConfigError(f"`{name}` must be {kind} above 0 or `None`, not {value!r}")


def _check_price(model: str, price: Any) -> None:
    pair = isinstance(price, tuple | list) and len(price) == 2
    if not pair or any(isinstance(p, bool) or not isinstance(p, int | float) or not p >= 0 for p in price):
        raise ConfigError(
            f"`prices[{model!r}]` must be two numbers, US dollars per million input and output tokens, not {price!r}"
        )


class Call(NamedTuple):
    """The most that one request to an LLM may take."""

    model: str
    input_tokens: int
    output_tokens: int


class Usage(NamedTuple):
    """What one request took, all tries together."""

    input_tokens: int = 0
    output_tokens: int = 0
    tries: int = 1


@dataclass(slots=True)
class Spent:
    """What a run has cost so far."""

    rollouts: int = 0
    failed: int = 0
    """Rollouts that did not succeed."""
    llm_calls: int = 0
    """Of agents, critic and editor; each try counts."""
    writer_calls: int = 0
    """Those of critic and editor among them."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """US dollars, as far as prices are known."""
    retries: int = 0
    """Requests of critic and editor that were sent again."""
    errors: dict[str, int] = field(default_factory=dict[str, int])
    """Kind (`rate_limit`, `server`, `timeout`, `connection`, `empty`, ...) -> how often a try ended so."""

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for files."""
        return asdict(self)


class Ledger:
    """Counts what a run spends and refuses what can't be paid. One for each run; used from one event loop.

    Args:
        budget: The limits.
        clock: Seconds, from any start.
    """

    def __init__(self, budget: Budget | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget or Budget()
        self.spent = Spent()
        self._clock = clock
        self._began = clock()
        self._running = 0
        """Rollouts that are reserved."""
        self._held = 0
        self._late = 0
        """Rollouts that may begin after time is up: those that were held."""
        self._asked: list[Call] = []
        """Calls that are reserved."""
        self._largest = (0, 0, 0.0)
        """Calls, tokens and dollars: the most that any rollout took."""

    # -- rollouts -------------------------------------------------------------------------------------------------

    @property
    def knows_a_rollout(self) -> bool:
        """Whether it can be told what a rollout may take. If not, one must be run alone first."""
        return bool(self.spent.rollouts) or not self.counts_calls_of_agents

    @property
    def counts_calls_of_agents(self) -> bool:
        """Whether a limit depends on what agents' calls are on record."""
        limited: list[tuple[float | None, float | None]] = [
            (self.budget.llm_calls, self.budget.rollout_calls),
            (self.budget.tokens, self.budget.rollout_tokens),
            (self.budget.cost, self.budget.rollout_cost),
        ]
        return any(limit is not None and declared is None for limit, declared in limited)

    def room(self) -> int:
        """How many more rollouts can be paid now, beside those that are held; `sys.maxsize` without a limit."""
        if self._time_is_up() and not self._late:
            return 0
        least = self._late if self._time_is_up() else sys.maxsize
        for _, left, each in self._left():
            if each > 0:
                # A hair more than exact, so that 0.3 buys three times 0.1.
                least = min(least, max(0, math.floor(left / each + 1e-9)))
            elif left <= 0:
                return 0
        return least

    def rollouts(self, n: int) -> None:
        """Reserve `n` rollouts, all or none.

        Raises:
            BudgetSpent: they can't all be paid.
            ValueError: several, while it is unknown what one takes (`knows_a_rollout`).
        """
        if n > 1 and not self.knows_a_rollout:
            raise ValueError(f"{n} rollouts can't be reserved before one was run: what one takes is not known")
        if n <= 0:
            return
        if self._time_is_up():
            if n > self._late:
                raise self._too_late()
            self._late -= n
        for name, left, each in self._left():
            if each * n > left + 1e-9 or left <= 0:
                raise self._refusal(name, f"{n} more rollouts")
        self._running += n

    def rollout_done(self, outcome: Outcome) -> None:
        """Settle one that was reserved, however it ended."""
        self._running = max(0, self._running - 1)
        self.spent.rollouts += 1
        self.spent.failed += outcome.failed
        calls, tokens, cost = self._count(outcome)
        most_calls, most_tokens, most_cost = self._largest
        self._largest = (max(most_calls, calls), max(most_tokens, tokens), max(most_cost, cost))

    def rollout_cut(self, outcome: Outcome) -> None:
        """Count what one took that a kill cut off: another will run in its place."""
        self._count(outcome)

    def _count(self, outcome: Outcome) -> tuple[int, int, float]:
        """Its calls, tokens and dollars."""
        cost = sum(self.budget.cost_of(model, *used) for model, used in outcome.usage.items())
        self._add(outcome.calls, outcome.input_tokens, outcome.output_tokens, cost)
        return outcome.calls, outcome.input_tokens + outcome.output_tokens, cost

    def hold(self, n: int) -> None:
        """Keep `n` rollouts back, for the final report; replaces what was held.

        Raises:
            ConfigError: `rollouts` does not reach that far.
        """
        left = sys.maxsize if self.budget.rollouts is None else self.budget.rollouts - self.spent.rollouts
        if n > left:
            raise ConfigError(
                f"`rollouts` leaves {left} but the final report takes {n}; raise it, or give fewer tasks to report on"
            )
        self._held = n

    def release(self) -> None:
        """Give free what was held. So many rollouts may begin even when time is up."""
        self._held, self._late = 0, self._held

    # -- calls of critic and editor ---------------------------------------------------------------------------------

    def calls(self, wanted: Sequence[Call]) -> None:
        """Reserve calls, all or none.

        Raises:
            BudgetSpent: they can't all be paid.
        """
        if not wanted:
            return
        if self._time_is_up():
            raise self._too_late()
        need = {"llm_calls": len(wanted), "tokens": sum(call.input_tokens + call.output_tokens for call in wanted)}
        costs = sum(self.budget.cost_of(*call) for call in wanted)
        for name, left, _ in self._left():
            if name != "rollouts" and (costs if name == "cost" else need[name]) > left + 1e-9:
                raise self._refusal(name, f"{len(wanted)} more calls of critic or editor")
        self._asked.extend(wanted)

    def payable(self, wanted: Sequence[Call]) -> int:
        """How many of `wanted`, from the first on, can be paid together now."""
        left = {name: left for name, left, _ in self._left()}
        for n, call in enumerate(wanted):
            used = {
                "llm_calls": 1,
                "tokens": call.input_tokens + call.output_tokens,
                "cost": self.budget.cost_of(*call),
            }
            for name, value in used.items():
                left[name] = left.get(name, math.inf) - value
            if min(left[name] for name in used) < -1e-9:
                return n
        return len(wanted)

    def call_done(self, call: Call, usage: Usage) -> None:
        """Settle one that was reserved, with what it took; `tries` is 0 where it was not sent."""
        self._asked.remove(call)
        self.call_known(call.model, usage)

    def call_known(self, model: str, usage: Usage) -> None:
        """Count one that was paid before this process began."""
        self.spent.writer_calls += usage.tries
        self.spent.retries += max(0, usage.tries - 1)
        cost = self.budget.cost_of(model, usage.input_tokens, usage.output_tokens)
        self._add(usage.tries, usage.input_tokens, usage.output_tokens, cost)

    def fault(self, kind: str, times: int = 1) -> None:
        """Note that tries ended with an error."""
        self.spent.errors[kind] = self.spent.errors.get(kind, 0) + times

    def retried(self) -> None:
        """Note that a request is sent again."""
        self.spent.retries += 1

    # -- for people -------------------------------------------------------------------------------------------------

    def line(self) -> str:
        """What was spent, of what, in one line."""
        spent, budget = self.spent, self.budget
        parts = [_of(str(spent.rollouts), budget.rollouts, "rollouts")]
        if spent.failed:
            parts[0] += f" ({spent.failed} failed)"
        parts.append(_of(str(spent.llm_calls), budget.llm_calls, "LLM calls"))
        parts.append(_of(_short(spent.tokens), budget.tokens and _short(budget.tokens), "tokens"))
        if budget.prices:
            parts.append(f"${spent.cost:.4g}" + (f" of ${budget.cost:.4g}" if budget.cost else ""))
        if spent.retries:
            parts.append(f"{spent.retries} retries")
        return ", ".join(parts)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _add(self, calls: int, input_tokens: int, output_tokens: int, cost: float) -> None:
        self.spent.llm_calls += calls
        self.spent.input_tokens += input_tokens
        self.spent.output_tokens += output_tokens
        self.spent.cost += cost

    def _each(self) -> tuple[float, float, float]:
        """Calls, tokens and dollars that one rollout may take."""
        declared = (self.budget.rollout_calls, self.budget.rollout_tokens, self.budget.rollout_cost)
        most_calls, most_tokens, most_cost = self._largest
        guess = (math.ceil(most_calls * _MARGIN), math.ceil(most_tokens * _MARGIN), most_cost * _MARGIN)
        calls, tokens, cost = (g if d is None else d for d, g in zip(declared, guess, strict=True))
        return calls, tokens, cost

    def _left(self) -> list[tuple[str, float, float]]:
        """For each limit: its name, what is neither spent nor reserved nor held, and what a rollout takes of it."""
        calls, tokens, cost = self._each()
        asked_tokens = sum(call.input_tokens + call.output_tokens for call in self._asked)
        asked_cost = sum(self.budget.cost_of(*call) for call in self._asked)
        rows = [
            ("rollouts", self.budget.rollouts, self.spent.rollouts, 0, 1),
            ("llm_calls", self.budget.llm_calls, self.spent.llm_calls, len(self._asked), calls),
            ("tokens", self.budget.tokens, self.spent.tokens, asked_tokens, tokens),
            ("cost", self.budget.cost, self.spent.cost, asked_cost, cost),
        ]
        kept = self._running + self._held
        return [
            (name, limit - spent - asked - kept * each, each)
            for name, limit, spent, asked, each in rows
            if limit is not None
        ]

    def _time_is_up(self) -> bool:
        return self.budget.seconds is not None and self._clock() - self._began >= self.budget.seconds

    def _too_late(self) -> BudgetSpent:
        return BudgetSpent("seconds", f"the `seconds` of the budget, {self.budget.seconds}, are over")

    def _refusal(self, name: str, what: str) -> BudgetSpent:
        held = f", {self._held} rollouts held back for the report" if self._held else ""
        return BudgetSpent(name, f"the budget's `{name}` do not pay for {what}: {self.line()}{held}")


def _of(spent: str, limit: object, what: str) -> str:
    return f"{spent} of {limit} {what}" if limit else f"{spent} {what}"


def _short(n: int) -> str:
    """12345 -> 12.3k."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if n >= size:
            return f"{n / size:.3g}{letter}"
    return str(n)
