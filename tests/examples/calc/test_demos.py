"""The demonstrators err as described, and no more."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from examples.calc.agent import answer_in
from examples.calc.calculator import TOOL, calculate
from examples.calc.data import problems
from examples.calc.demos import demonstrations, mistake


def expression_of(conversation: dict[str, Any]) -> str:
    (call,) = conversation["messages"][1]["tool_calls"]
    return json.loads(call["function"]["arguments"])["expression"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("12 + 5", None),
        ("12 - 5", None),
        ("12 / 4", None),
        ("12 * 5", "12 + 5"),
        ("12 + 5 - 3", "12 + 5"),
        ("6 * 7 + 5", "6 * 7"),
        ("(4 + 5) * 3 - 6", "(4 + 5) * 3"),
    ],
)
def test_the_mistake(right: str, wrong: str | None) -> None:
    assert mistake(right) == wrong


@pytest.mark.parametrize("rate", [0.0, 0.65, 1.0])
def test_error_rate_is_exact_within_each_family(rate: float) -> None:
    rows = problems("train", 1000, seed=0)
    by_family: dict[str, list[bool]] = defaultdict(list)
    for row, conversation in zip(rows, demonstrations(rows, seed=0, error_rate=rate), strict=True):
        expression = expression_of(conversation)
        assert expression in (row["expression"], mistake(row["expression"]))
        by_family[row["family"]].append(expression != row["expression"])
    simple = {"add", "subtract", "share", "extra_add", "extra_subtract"}
    assert {family for family, errors in by_family.items() if any(errors)} == (
        set(by_family) - simple if rate else set()
    )
    assert all(sum(errors) == rate * 100 for family, errors in by_family.items() if family not in simple)


def test_a_mistake_always_costs_the_answer() -> None:
    for row in problems("train", 3000, seed=1):
        wrong = mistake(row["expression"])
        assert wrong is None or calculate(wrong) != str(row["answer"]), row


def test_conversations_are_whole_and_consistent() -> None:
    rows = problems("train", 100, seed=0)
    for row, conversation in zip(rows, demonstrations(rows, seed=0), strict=True):
        assert conversation["tools"] == [TOOL]
        user, call, tool, answer = conversation["messages"]
        assert [m["role"] for m in (user, call, tool, answer)] == ["user", "assistant", "tool", "assistant"]
        assert user["content"] == row["question"]
        assert tool["tool_call_id"] == call["tool_calls"][0]["id"]
        assert tool["content"] == calculate(expression_of(conversation))
        assert answer_in(answer["content"]) == float(tool["content"])


def test_the_seed_decides_who_errs() -> None:
    rows = problems("train", 200, seed=0)
    first, again, other = (demonstrations(rows, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
