"""What the agents of this folder share: a question, a tool to answer it with, and what an answer is worth.

It imports nothing of ours, so that programs with another Python can use it too.
"""

from __future__ import annotations

from typing import Any

WEATHER = {"Bergen": "rainy", "Cairo": "sunny"}
MAX_CALLS = 3
"""Calls of the model per question; one that still asks for the tool then has failed."""

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Look up the weather.", "parameters": PARAMETERS},
}


def get_weather(city: str) -> str:
    """Look up the weather."""
    return WEATHER.get(city, "unknown")


def question(task: dict[str, Any]) -> str:
    return f"What is the weather in {task['city']}?"


def reward(task: dict[str, Any], answer: str | None) -> float:
    """1 if the answer tells the weather of the task's city."""
    return float(WEATHER[task["city"]] in (answer or ""))
