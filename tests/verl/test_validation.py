"""Validation scores: against loops written from the definition, and against numbers worked out by hand."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from agentlightning.report.validation import print_validation
from agentlightning.verl.validation import answer_values, interval, source_of, validation_metrics


def resampled(values: list[float], k: int, reduce: Callable[[list[int]], float]) -> tuple[float, float]:
    """The definition: 1,000 draws of k indices with replacement, from a generator seeded with 42."""
    np.random.seed(42)
    results = [reduce(np.random.choice(len(values), size=k, replace=True).tolist()) for _ in range(1000)]
    return float(np.mean(results)), float(np.std(results))


def majority(values: list[float], votes: list[str], drawn: list[int]) -> float:
    most = Counter(votes[i] for i in drawn).most_common(1)[0][0]  # of equals the first one met
    return next(values[i] for i in drawn if votes[i] == most)


def test_one_answer_a_prompt_has_only_a_mean() -> None:
    found = validation_metrics(["a", "a", "b"], [0, 1, 2], {"reward": [1.0, 0.0, 0.5]})
    assert found["val-core/a/reward/mean@1"] == 0.5
    assert found["val-core/b/reward/mean@1"] == 0.5
    assert {name for name in found if name.startswith("val-core/")} == {
        "val-core/a/reward/mean@1",
        "val-core/b/reward/mean@1",
    }


def test_best_worst_and_majority_follow_the_definition() -> None:
    prompts = {"p": [0.0, 1.0, 0.25, 0.0, 0.5], "q": [1.0, 1.0, -1.0, 0.0, 0.0]}
    said = {"p": ["x", "y", "z", "x", "z"], "q": ["y", "y", "x", "x", "w"]}
    found = validation_metrics(
        ["s"] * 10,
        ["p"] * 5 + ["q"] * 5,
        {"reward": prompts["p"] + prompts["q"]},
        pred=said["p"] + said["q"],
    )
    assert found["val-core/s/reward/mean@5"] == pytest.approx((0.35 + 0.2) / 2)
    assert found["val-aux/s/reward/std@5"] == pytest.approx((np.std(prompts["p"]) + np.std(prompts["q"])) / 2)
    for k, section in ((2, "val-aux"), (4, "val-aux"), (5, "val-core")):
        for kind, reduce in (("best", max), ("worst", min), ("maj", None)):
            parts = []
            for name, values in prompts.items():
                if reduce is None:
                    parts.append(resampled(values, k, lambda d, v=values, n=name: majority(v, said[n], d)))
                else:
                    parts.append(resampled(values, k, lambda d, v=values, r=reduce: r(v[i] for i in d)))
            where = "val-aux" if kind == "worst" else section
            for at, moment in enumerate(("mean", "std")):
                expected = float(np.mean([part[at] for part in parts]))
                assert found[f"{where}/s/reward/{kind}@{k}/{moment}"] == pytest.approx(expected, abs=1e-12)
    assert not any("@3" in name for name in found)


def test_without_votes_there_is_no_majority() -> None:
    for pred in (None, [None, None]):
        found = validation_metrics(["s"] * 2, [0, 0], {"reward": [0.0, 1.0]}, pred=pred)
        assert not any("maj@" in name for name in found)
        assert "val-core/s/reward/best@2/mean" in found


def test_an_answer_that_says_nothing_votes_for_itself() -> None:
    found = validation_metrics(["s"] * 3, [0, 0, 0], {"reward": [0.0, 0.0, 1.0]}, pred=[None, None, "y"])
    # Were the two silent ones one party, they would win most draws.
    votes = ["n0", "n1", "y"]
    expected, _ = resampled([0.0, 0.0, 1.0], 3, lambda drawn: majority([0.0, 0.0, 1.0], votes, drawn))
    assert found["val-core/s/reward/maj@3/mean"] == pytest.approx(expected)


def test_accuracy_is_the_core_variable_of_the_sources_that_have_it() -> None:
    found = validation_metrics(["a", "b"], [0, 1], {"reward": [-1.0, 1.0], "acc": [0.0, None], "format": [None, None]})
    assert found["val-core/a/acc/mean@1"] == 0.0
    assert found["val-aux/a/reward/mean@1"] == -1.0
    assert found["val-core/b/reward/mean@1"] == 1.0
    assert not any("b/acc" in name or "format" in name for name in found)


def test_a_missing_number_counts_as_the_fill_value() -> None:
    found = validation_metrics(["a", "a"], [0, 1], {"reward": [1.0, None]}, fill=-1.0)
    assert found["val-core/a/reward/mean@1"] == 0.0


def test_a_source_in_which_everything_failed_has_a_reward_of_the_fill_value() -> None:
    found = validation_metrics(["a", "b"], [0, 1], {"reward": [1.0, None], "acc": [1.0, None]})
    assert found["val-core/b/reward/mean@1"] == 0.0
    assert not any("b/acc" in name for name in found)


def test_a_prompts_numbers_do_not_depend_on_the_others() -> None:
    alone = validation_metrics(["s"] * 4, [0] * 4, {"reward": [0.0, 1.0, 0.5, 0.0]})
    twice = validation_metrics(["s"] * 8, [0] * 4 + [1] * 4, {"reward": [0.0, 1.0, 0.5, 0.0] * 2})
    assert {n: v for n, v in alone.items() if "ci95" not in n} == pytest.approx(
        {n: v for n, v in twice.items() if "ci95" not in n}
    )


def test_the_interval_of_yes_and_no_is_wilsons() -> None:
    # 8 of 10. The sample variance says 9 answers in effect, but there are never fewer than prompts: n = 10.
    low, high = interval([1.0] * 8 + [0.0] * 2)
    z2, n = 1.959964**2, 10
    centre = (0.8 + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (0.16 / n + z2 / (4 * n * n))) / (1 + z2 / n)
    assert (low, high) == pytest.approx((centre - half, centre + half))
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_ten_of_ten_is_not_certainty() -> None:
    low, high = interval([1.0] * 10)
    assert low == pytest.approx(10 / (10 + 1.959964**2))  # Wilson's lower end at p = 1
    assert high == pytest.approx(1.0)


def test_prompts_that_agree_narrow_the_interval() -> None:
    low, high = interval([0.5, 0.5, 0.5, 0.4, 0.6])
    wide_low, wide_high = interval([1.0, 0.0, 1.0, 0.0, 0.5])
    assert wide_low < low < 0.5 < high < wide_high


def test_scores_beyond_0_and_1_get_a_normal_interval() -> None:
    # mean 0, sample standard deviation sqrt(4/3), over 4 prompts
    half = 1.959964 * math.sqrt(4 / 3) / 2
    assert interval([-1.0, 1.0, -1.0, 1.0]) == pytest.approx((-half, half))
    assert interval([-1.0]) == (-1.0, -1.0)


def test_the_interval_is_logged_for_the_core_variable() -> None:
    found = validation_metrics(
        ["s"] * 4, [0, 0, 1, 1], {"reward": [1.0, 0.0, 1.0, 1.0], "length": [3.0, 4.0, 5.0, 6.0]}
    )
    low, high = interval([0.5, 1.0])
    assert found["val-aux/s/reward/mean@2/ci95_low"] == low
    assert found["val-aux/s/reward/mean@2/ci95_high"] == high
    best = found["val-core/s/reward/best@2/mean"]
    # One prompt's best of 2 drawn with replacement from (1, 0) is 1 in about 3 of 4 draws, the other's always.
    assert interval([2 * best - 1, 1.0]) == pytest.approx(
        (found["val-aux/s/reward/best@2/ci95_low"], found["val-aux/s/reward/best@2/ci95_high"])
    )
    assert not any("length" in name and "ci95" in name for name in found)


def test_the_nameless_dimension_is_the_reward() -> None:
    assert answer_values([1.0, None], [{"primary": 1.0}, {}]) == {"reward": [1.0, None]}
    assert answer_values([1.0, 0.0], [{"reward": 1.0, "acc": 1.0}, {"tone": 2.0}]) == {
        "reward": [1.0, 0.0],
        "acc": [1.0, None],
        "tone": [None, 2.0],
    }


def test_the_source_of_a_task() -> None:
    assert [source_of(task) for task in ({"data_source": "a/b"}, {"data_source": None}, {"q": 1}, "text", None)] == [
        "a/b",
        *["unknown"] * 4,
    ]


def test_the_table_shows_each_score_with_its_interval() -> None:
    metrics = validation_metrics(
        ["openai/gsm8k"] * 4, [0, 0, 1, 1], {"reward": [1.0, 0.0, 1.0, 1.0]}, pred=["a", "b", "c", "c"]
    )
    out = io.StringIO()
    print_validation({**metrics, "val/reward": 0.75, "val-aux/num_turns/mean": 1.0}, Console(file=out, width=120))
    lines = out.getvalue().splitlines()
    heading = next(line for line in lines if "data source" in line)
    assert all(word in heading for word in ("mean@2", "95 % interval", "best@2", "worst@2", "maj@2"))
    low, high = interval([0.5, 1.0])
    [shown] = [line for line in lines if "openai/gsm8k" in line]
    assert shown.split()[:6] == ["openai/gsm8k", "reward", "0.750", f"{low:.3f}", "to", f"{high:.3f}"]
    assert "num_turns" not in out.getvalue()
