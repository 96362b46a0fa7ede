"""Credit rules: what each turn of an episode earned. One small file a rule; `get_credit` finds them by name.

Called by the training loop. A rule is a function `rule(episode, group, **parameters)`: it sees an `Episode` and all
episodes of the same task (`episode` is one of them), and returns one number a turn. `None` means that the turn gives no
signal and is not trained, which is not the same as 0. Its parameters are keyword-only and have defaults.
"""

from __future__ import annotations

from .by_agent import by_agent
from .discounted import discounted
from .group_relative_per_turn import group_relative_per_turn
from .identical import identical
from .last_turn import last_turn
from .per_turn import per_turn
from .registry import RULES, CreditRule, CreditSpec, get_credit, is_relative, register_credit, relative

for _rule in (identical, last_turn, discounted, per_turn, by_agent, group_relative_per_turn):
    register_credit(_rule.__name__)(_rule)

__all__ = [
    "RULES",
    "CreditRule",
    "CreditSpec",
    "by_agent",
    "discounted",
    "get_credit",
    "group_relative_per_turn",
    "identical",
    "is_relative",
    "last_turn",
    "per_turn",
    "register_credit",
    "relative",
]
