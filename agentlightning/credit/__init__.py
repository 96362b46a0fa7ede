"""Credit rules: what each turn of an episode earned. One small file a rule; `get_credit` finds them by name.

Called by the training loop. A rule takes an `Episode` and returns one number a turn; `None` means that the turn gives
no signal and is not trained, which is not the same as 0.
"""

from __future__ import annotations

from collections.abc import Callable

from agentlightning.types import ConfigError, Episode

from .identical import identical
from .last_turn import last_turn

CreditRule = Callable[[Episode], list[float | None]]

RULES: dict[str, CreditRule] = {"identical": identical, "last_turn": last_turn}
"""The rules that have a name."""

__all__ = ["RULES", "CreditRule", "get_credit", "identical", "last_turn"]


def get_credit(rule: str | CreditRule) -> CreditRule:
    """The rule of this name, or `rule` itself where it is a function already.

    Raises:
        ConfigError: no rule has that name.
    """
    if callable(rule):
        return rule
    if rule not in RULES:
        raise ConfigError(f"`credit` {rule!r} is no credit rule; known are {', '.join(RULES)}, or give a function")
    return RULES[rule]
