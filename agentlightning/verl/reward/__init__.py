"""Rewards of answers to questions with a known result: rules by data source, or a function from a file.

Called by the built-in agent of `main_ppo` (`verl.single_turn`); usable alone. No torch.
"""

from .functions import Score, Scorer, load_function, read_score
from .overlong import overlong_penalty
from .rules import compute_score, find_rule, sources

__all__ = [
    "Score",
    "Scorer",
    "compute_score",
    "find_rule",
    "load_function",
    "overlong_penalty",
    "read_score",
    "sources",
]
