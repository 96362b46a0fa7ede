"""A reward function from a file: found, called, read; and what is wrong with it said."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from agentlightning.types import ConfigError
from agentlightning.verl.reward import Score, Scorer, load_function, read_score

ROW = {
    "data_source": "mine",
    "prompt": [{"role": "user", "content": "?"}],
    "reward_model": {"ground_truth": "4"},
    "extra_info": {"index": 7},
}


def write(directory: Path, code: str) -> Path:
    path = directory / "my_reward.py"
    path.write_text(code)
    return path


async def test_a_function_gets_the_row_by_keyword_and_its_own_arguments(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):\n"
        "    right = (data_source, solution_str, ground_truth, extra_info, kwargs)\n"
        "    return float(right == ('mine', '2 + 2', '4', {'index': 7}, {'scale': 3}))\n",
    )
    assert await Scorer(path, kwargs={"scale": 3})(ROW, "2 + 2") == Score({"reward": 1.0, "acc": 1.0})


async def test_configured_arguments_win_over_those_of_the_row(tmp_path: Path) -> None:
    path = write(tmp_path, "def score(data_source, solution_str, ground_truth, extra_info):\n    return ground_truth\n")
    assert (await Scorer(path, "score", {"ground_truth": 9.0})(ROW, "")).rewards["reward"] == 9.0


async def test_a_function_may_be_async(tmp_path: Path) -> None:
    code = "import asyncio\nasync def compute_score(**row):\n    await asyncio.sleep(0)\n    return 0.5\n"
    assert (await Scorer(write(tmp_path, code))(ROW, "")).rewards["reward"] == 0.5


async def test_a_slow_function_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    code = "import threading\ndef compute_score(**row):\n    return threading.get_ident()\n"
    assert (await Scorer(write(tmp_path, code))(ROW, "")).rewards["reward"] != threading.get_ident()


async def test_what_a_function_raises_reaches_the_caller(tmp_path: Path) -> None:
    scorer = Scorer(write(tmp_path, "def compute_score(**row):\n    raise KeyError('no [score] today')\n"))
    with pytest.raises(KeyError, match="no \\[score\\] today"):
        await scorer(ROW, "")


async def test_a_scorer_travels_to_another_process(tmp_path: Path) -> None:
    scorer = Scorer(write(tmp_path, "def compute_score(**row):\n    return 0.25\n"))
    await scorer(ROW, "")
    assert (await pickle.loads(pickle.dumps(scorer))(ROW, "")).rewards["reward"] == 0.25


async def test_without_a_file_the_rules_score() -> None:
    scorer = Scorer()
    assert scorer.builtin
    assert (await scorer({**ROW, "data_source": "openai/gsm8k"}, "#### 4")).rewards == {"reward": 1.0, "acc": 1.0}


@pytest.mark.parametrize(
    ("code", "name", "expected"),
    [
        (None, "compute_score", "is not a file"),
        ("x = 1", "compute_score", "no function `compute_score`"),
        ("def other(**row): ...", "compute_score", "name it in `reward.custom_reward_function.name`"),
        ("import nonsense_module", "compute_score", "No module named 'nonsense_module'"),
        ("def broken(:", "compute_score", "SyntaxError"),
        ("def compute_score(answer, truth): ...", "compute_score", "can't be called"),
    ],
)
def test_a_function_that_cannot_work_is_refused(tmp_path: Path, code: str | None, name: str, expected: str) -> None:
    path = tmp_path / "none.py" if code is None else write(tmp_path, code)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_function(path, name)
    assert "`" in str(caught.value)


def test_a_configured_argument_that_the_function_does_not_take_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "def compute_score(data_source, solution_str, ground_truth, extra_info=None): ...\n")
    load_function(path, "compute_score")
    with pytest.raises(ConfigError, match="'scale'"):
        load_function(path, "compute_score", {"scale": 2})


def test_a_number_is_the_reward_and_the_accuracy() -> None:
    assert read_score(True) == Score({"reward": 1.0, "acc": 1.0})


def test_a_dictionary_gives_dimensions_and_labels() -> None:
    given = {"score": -1, "acc": False, "format": 0.5, "pred": "42", "unknown": None}
    assert read_score(given) == Score({"reward": -1.0, "score": -1.0, "acc": 0.0, "format": 0.5}, {"pred": "42"})


def test_the_score_is_the_reward_whatever_else_is_called_so() -> None:
    assert read_score({"reward": 3.0, "score": 1.0}).rewards == {"reward": 1.0, "score": 1.0}


@pytest.mark.parametrize(
    ("result", "error", "expected"),
    [
        (None, TypeError, "returned None"),
        ("1", TypeError, "must return a number"),
        ({"acc": 1}, TypeError, "without `score`"),
        ({"score": None}, TypeError, "without `score`"),
        ({"score": "1"}, TypeError, "as `score`, not a number"),
        ({"score": 1, "parts": [1]}, TypeError, "parts"),
        (float("nan"), ValueError, "finite"),
        ({"score": float("inf")}, ValueError, "finite"),
    ],
)
def test_what_is_no_score_is_refused(result: Any, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        read_score(result, "compute_score")
