"""Rule rewards: where a result is found, and when it is the known one."""

from __future__ import annotations

import pytest

from agentlightning.types import ConfigError
from agentlightning.verl.reward import compute_score, sources
from agentlightning.verl.reward.answers import boxed
from agentlightning.verl.reward.latex import math_form, minerva_form


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("6 * 7 = 42\n#### 42", "42", 1.0),
        ("#### 41\nNo: #### 42", "42", 1.0),
        ("#### 42\nNo: #### 41", "42", 0.0),
        ("#### 1,234", "1234", 1.0),
        ("#### 1234", "1,234", 1.0),
        ("#### -5", "-5", 1.0),
        ("#### 42.0", "42", 0.0),
        ("####42", "42", 0.0),
        ("the answer is 42", "42", 0.0),
        ("", "42", 0.0),
        ("#### 42" + " and so on" * 40, "42", 0.0),
    ],
)
def test_gsm8k_reads_the_last_number_behind_hashes_near_the_end(answer: str, truth: str, score: float) -> None:
    assert compute_score("openai/gsm8k", answer, truth) == score


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{3}", "3"),
        (r"$\boxed 7$", "7"),
        (r"\boxed{42", None),
        ("42", None),
        (r"\boxedness{3}", None),
    ],
)
def test_a_box_is_read_to_its_own_closing_brace(text: str, found: str | None) -> None:
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{1}{2}", r"\dfrac12"),
        (r"\tfrac{a}{b}", r"\frac ab"),
        ("1/2", r"\frac{1}{2}"),
        ("0.5", r"\frac{1}{2}"),
        (".5", "0.5"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("90^\\circ", "90"),
        ("90^{\\circ}", "90"),
        (r"\$18", "18"),
        (r"50\%", "50"),
        (r"5\text{ cm}", "5"),
        (r"5\mbox{ cm}^2", "5"),
        (r"\text{Monday}", "Monday"),
        ("x = 3", "3"),
        ("3.", "3"),
        (r"10,\!000", "10,000"),
    ],
)
def test_two_ways_to_write_one_result_of_math_are_equal(one: str, other: str) -> None:
    assert math_form(one) == math_form(other)
    assert compute_score("lighteval/MATH", rf"\boxed{{{one}}}", other) == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [("1/2", "2/4"), ("3", "-3"), ("(1,2)", "[1,2]"), ("xy=3", "3x"), (r"\sqrt{2}", "2"), ("3", "30"), ("a", "A")],
)
def test_two_results_of_math_are_told_apart(one: str, other: str) -> None:
    assert compute_score("HuggingFaceH4/MATH-500", rf"\boxed{{{one}}}", other) == 0.0


def test_math_without_a_box_is_wrong() -> None:
    assert compute_score("DigitalLearningGmbH/MATH-lighteval", "42", "42") == 0.0


@pytest.mark.parametrize(
    ("line", "truth"),
    [
        ("Answer: 204", "204"),
        ("answer:  $204$", "204"),
        ("**Answer:** 204", "204"),
        (r"Answer: \boxed{204}", "204"),
        (r"Answer: $\boxed{204}$.", "204"),
        ("Answer: x = 204", "204"),
        ("Answer: 1,204", "1204"),
        ("Answer: 5 square units", "5"),
        (r"Answer: 30\text{ degrees}", "30"),
        (r"Answer: \frac12", r"\frac{1}{2}"),
    ],
)
def test_aime_reads_the_last_answer_line(line: str, truth: str) -> None:
    for source in ("aime2024", "math_dapo", "math"):
        result = compute_score(source, f"Answer: 7\nwait\n{line}", truth)
        assert result == {"score": 1.0, "acc": 1.0, "pred": minerva_form(truth)}


def test_a_wrong_or_missing_aime_answer_costs_one() -> None:
    assert compute_score("aime2024", "Answer: 3", "4") == {"score": -1.0, "acc": 0.0, "pred": "3"}
    assert compute_score("aime2024", "it is 4", "4") == {"score": -1.0, "acc": 0.0, "pred": "[INVALID]"}


def test_a_truth_may_be_a_number() -> None:
    assert compute_score("openai/gsm8k", "#### 42", 42) == 1.0


def test_an_unknown_source_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="`my/data`") as caught:
        compute_score("my/data", "", "")
    assert "`reward.custom_reward_function.path`" in str(caught.value)
    assert all(f"`{name}`" in str(caught.value) for name in sources())


def test_rules_take_long_nonsense_in_their_stride() -> None:
    nonsense = "\\boxed{" * 2_000 + "{" * 20_000 + "\\frac" * 5_000 + "1," * 20_000
    for source in ("openai/gsm8k", "lighteval/MATH", "aime2024"):
        result = compute_score(source, nonsense, "1")
        assert (result["score"] if isinstance(result, dict) else result) <= 0
