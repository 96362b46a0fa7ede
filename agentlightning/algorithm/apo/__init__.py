"""Prompt optimisation: `APO`, what it may cost, and the strategies that it is made of."""

from .apo import APO
from .budget import Budget, BudgetSpent

__all__ = ["APO", "Budget", "BudgetSpent"]
