"""Rule rewards by `data_source`: whether the result in an answer is the known one. Called by `functions` and users."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from agentlightning.types import ConfigError

from .answers import after_answer, after_hashes, boxed
from .latex import minerva_form, same_math

Rule: TypeAlias = Callable[[str, str], "float | dict[str, Any]"]
"""(answer, ground truth) -> the score, or a dictionary with `score`."""


def gsm8k(answer: str, ground_truth: str) -> float:
    """1 where the number behind the last `#### ` is the expected one, letter for letter but for commas."""
    return float(after_hashes(answer) == ground_truth.replace(",", "").strip())


def math(answer: str, ground_truth: str) -> float:
    r"""1 where the last `\boxed{...}` is the expected result (see `latex.math_form`)."""
    found = boxed(answer)
    return float(found is not None and same_math(found, ground_truth))


def aime(answer: str, ground_truth: str) -> dict[str, Any]:
    """1 or -1 by the last `Answer:` (see `latex.minerva_form`), with `acc` (1 or 0) and `pred`, the result given."""
    found = after_answer(answer)
    pred = "[INVALID]" if found is None else minerva_form(found)
    right = pred == minerva_form(ground_truth)
    return {"score": 1.0 if right else -1.0, "acc": float(right), "pred": pred}


RULES: Mapping[str, Rule] = {
    "openai/gsm8k": gsm8k,
    "agentlightning/arithmetic": gsm8k,
    "lighteval/MATH": math,
    "DigitalLearningGmbH/MATH-lighteval": math,
    "HuggingFaceH4/MATH-500": math,
    "math_dapo": aime,
    "math_dapo_reasoning": aime,
    "math": aime,
}
"""Rule by data source, as verl routes them; sources that begin with `aime` have the rule `aime`, too."""


def sources() -> list[str]:
    """The data sources that have a rule."""
    return [*RULES, "aime*"]


def find_rule(data_source: str, mend: str = "set `reward.custom_reward_function.path` to it") -> Rule:
    """The rule of a data source.

    Args:
        data_source: As the rows name it.
        mend: What to do with a function of one's own, for the message.

    Raises:
        ConfigError: there is none.
    """
    rule = aime if data_source.startswith("aime") else RULES.get(data_source)
    if rule is None:
        known = ", ".join(f"`{name}`" for name in sources())
        raise ConfigError(
            f"no rule scores the data source `{data_source}`; there are rules for {known}. For another one write "
            "`compute_score(data_source, solution_str, ground_truth, extra_info=None)` in a file and "
            f"{mend}"
        )
    return rule


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None
) -> float | dict[str, Any]:
    """The rule reward of an answer.

    Args:
        data_source: Chooses the rule, see `RULES`.
        solution_str: The answer's text.
        ground_truth: The known result, as text or number.
        extra_info: Not used by the rules; here because custom reward functions get it.

    Returns:
        The score, or a dictionary with `score` and more.

    Raises:
        ConfigError: there is no rule for `data_source`.
    """
    return find_rule(data_source)(solution_str, str(ground_truth))
