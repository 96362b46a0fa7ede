"""The calculator does sums and nothing else."""

from __future__ import annotations

import pytest

from examples.calc.calculator import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12 + 5", "17"),
        ("(12 + 5) * 3 - 6", "45"),
        (" 2*-3 ", "-6"),
        ("7 / 2", "3.5"),
        ("156 / 2", "78"),
        ("1 / 3", "0.333333"),
        ("0.5 + 0.5", "1"),
        ("9" * 200, "9" * 200),
    ],
)
def test_sums(expression: str, value: str) -> None:
    assert calculate(expression) == value


SYNTAX = ["", "12 +", "1 +* 2", "012 + 1", "()", "1.2.3", "(" * 200, "-" * 199]
NOT_ARITHMETIC = ["2 ** 9", "7 // 2", "1, 2", "exit()", "x", "1_0", "1e9", "True", "1 if 1 else 2", "1\x00", "٣ + ٣"]


@pytest.mark.parametrize("expression", [*SYNTAX, *NOT_ARITHMETIC, "1" * 201])
def test_anything_else_is_an_error_that_can_be_read(expression: str) -> None:
    assert calculate(expression).startswith("error: ")


@pytest.mark.parametrize("expression", ["1 / 0", "5 / (3 - 3)", "0.0 / 0"])
def test_division_by_zero(expression: str) -> None:
    assert calculate(expression) == "error: division by zero"
