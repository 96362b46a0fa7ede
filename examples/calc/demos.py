"""Demonstrations for the warm start: how imperfect people solve the problems with the calculator.

Called by `train.py` with training rows. The demonstrators are good at one-step sums, but in most of the other
problems they make the same mistake: they drop the last step, or add where they should multiply. A model that imitates
them takes the mistaken way when it decodes greedily, and the right one when it samples, about one time in three.
That is what reinforcement learning can amplify.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Sequence
from typing import Any

from .calculator import TOOL, calculate


def demonstrations(rows: Sequence[dict[str, Any]], seed: int, error_rate: float = 0.65) -> list[dict[str, Any]]:
    """One conversation for each row.

    Args:
        rows: Training problems (never those of a test split).
        seed: Decides which demonstrations are mistaken.
        error_rate: Share of mistaken demonstrations among the multi-step and product problems, within each family
            exact to one problem.

    Returns:
        `{"messages": [...], "tools": [...]}` in the OpenAI format, in the order of `rows`.
    """
    rng = random.Random(f"{seed} demonstrations")
    families: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if mistake(row["expression"]) is not None:
            families.setdefault(row["family"], []).append(index)
    mistaken: set[int] = set()
    for indices in families.values():
        mistaken.update(rng.sample(indices, round(error_rate * len(indices))))
    return [_conversation(row, index in mistaken) for index, row in enumerate(rows)]


def mistake(expression: str) -> str | None:
    """The expression as the demonstrators get it wrong, or `None` where they never do."""
    last = ast.parse(expression, mode="eval").body
    if not isinstance(last, ast.BinOp):
        return None
    if isinstance(last.left, ast.BinOp):
        return ast.unparse(last.left)
    return expression.replace("*", "+") if isinstance(last.op, ast.Mult) else None


def _conversation(row: dict[str, Any], mistaken: bool) -> dict[str, Any]:
    expression = (mistake(row["expression"]) if mistaken else None) or row["expression"]
    result = calculate(expression)
    call = {
        "id": "call_0",
        "type": "function",
        "function": {"name": "calculator", "arguments": json.dumps({"expression": expression})},
    }
    return {
        "messages": [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_0", "content": result},
            {"role": "assistant", "content": f"### {result} ###"},
        ],
        "tools": [TOOL],
    }
