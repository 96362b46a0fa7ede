"""What rollouts have used: calls, tokens and money. Filled by `gateway` for every answered call of an attempt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_ROLLOUTS = 16_384
"""How many rollouts are remembered at once; the one that called longest ago is forgotten first."""


class Prices(NamedTuple):
    """What tokens cost, in the money that the model list is written in (US dollars in LiteLLM's)."""

    input_cost_per_token: float = 0.0
    output_cost_per_token: float = 0.0


@dataclass(frozen=True, slots=True)
class RolloutUsage:
    """Sums over the answered calls of a rollout, or of a model."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """0 where the model list gives no prices."""

    def plus(self, other: RolloutUsage) -> RolloutUsage:
        """Both together."""
        return RolloutUsage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )


def _free(_: str) -> Prices:
    return Prices()


class Ledger:
    """Usage by rollout and by model. `add` belongs to the gateway's event loop; the others may be asked by any thread.

    Args:
        prices: What the tokens of a model cost.
        limit: How many rollouts are remembered. Sums by model forget nothing.
    """

    def __init__(self, prices: Callable[[str], Prices] = _free, limit: int = MAX_ROLLOUTS) -> None:
        self._prices = prices
        self._limit = limit
        self._rollouts: OrderedDict[str, RolloutUsage] = OrderedDict()
        self._models: dict[str, RolloutUsage] = {}

    def add(self, rollout_id: str, model: str, usage: Mapping[str, Any]) -> None:
        """Count one answered call.

        Args:
            rollout_id: Whose call it was.
            model: The name that it asked for.
            usage: The `usage` of a chat completion. What an endpoint leaves out or garbles counts as 0.
        """
        price = self._prices(model)
        prompt, completion = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
        cost = prompt * price.input_cost_per_token + completion * price.output_cost_per_token
        call = RolloutUsage(1, prompt, completion, cost)
        self._rollouts[rollout_id] = self.of(rollout_id).plus(call)
        self._rollouts.move_to_end(rollout_id)
        self._models[model] = self._models.get(model, RolloutUsage()).plus(call)
        while len(self._rollouts) > self._limit:
            self._rollouts.popitem(last=False)

    def of(self, rollout_id: str) -> RolloutUsage:
        """What a rollout has used; nothing for one that made no call, or that is forgotten."""
        return self._rollouts.get(rollout_id, RolloutUsage())

    def totals(self) -> dict[str, RolloutUsage]:
        """By model: what all calls of attempts have used since the gateway was made."""
        return dict(self._models)


def _tokens(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if type(value) is int and value > 0 else 0
