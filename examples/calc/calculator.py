"""The calculator: the tool that the agent offers to the model, and the code that does the sum.

Called by `agent.py` (with what a model wrote, which may be anything) and by `demos.py`.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionFunctionToolParam

TOOL: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "work out arithmetic",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}
"""The calculator as the `tools` argument of a chat completion wants it."""

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LONGEST = 200
"""Characters; a longer expression is nonsense, and could nest deep enough to exhaust the stack or overflow a float."""
_ALLOWED = re.compile(r"[\d\s.+*/()-]+", re.ASCII)
_NONSENSE = "error: not an arithmetic expression"


def calculate(expression: str) -> str:
    """The value of an arithmetic expression as text.

    Args:
        expression: Numbers, `+ - * /`, parentheses and minus signs. Nothing else is ever evaluated.

    Returns:
        The number, without a fraction where it is whole, or a text that starts with `error: `: a model can read
        that and try again, while an exception would end the episode.
    """
    if len(expression) > _LONGEST:
        return f"error: longer than {_LONGEST} characters"
    if not _ALLOWED.fullmatch(expression):
        return _NONSENSE
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
        whole = int(value)
    except ZeroDivisionError:
        return "error: division by zero"
    except (SyntaxError, ValueError):
        return _NONSENSE
    return str(whole) if whole == value else f"{value:.6g}"


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left), _value(right))
        case _:
            raise ValueError(f"`{ast.unparse(node)}` is not arithmetic")
