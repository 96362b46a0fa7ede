"""`agl eval`: an agent, or a model on questions with known answers, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import write_rows

QUESTIONS = [
    {
        "data_source": "aime2024" if n % 2 else "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{n} + 1"}],
        "reward_model": {"ground_truth": str(n + 1)},
    }
    for n in range(4)
]
CERTAIN = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(data_source == "aime2024"), "pred": solution_str}
"""


def test_an_agent_is_measured_by_source_and_written_down(agl: Any) -> None:
    write_rows(agl.directory / "mixed.jsonl", [{"do": "work", "data_source": "a"}, {"do": "raise", "data_source": "b"}])
    done = agl("eval", "agents:moody", "mixed.jsonl", "-n", "2", "--output", "out/here.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((agl.directory / "out" / "here.json").read_text())
    assert written["metrics"]["val-core/a/reward/mean@2"] == 0.5
    assert written["metrics"]["val-core/b/reward/mean@2"] == 0.0, "a failed rollout counts as 0"
    assert [(r["task"], r["sample"], r["status"], r["reward"]) for r in written["rollouts"]] == [
        (0, 0, "succeeded", 0.5),
        (0, 1, "succeeded", 0.5),
        (1, 0, "failed", None),
        (1, 1, "failed", None),
    ]
    assert "4 rollouts: 2 succeeded, 2 failed" in done.stdout
    assert "2 times: RuntimeError: no [mood] today" in done.stdout
    assert "95 % interval" in done.stdout


def test_a_model_answers_questions_and_a_file_scores_them(agl: Any, model: Path) -> None:
    write_rows(agl.directory / "questions.jsonl", QUESTIONS)
    (agl.directory / "score.py").write_text(CERTAIN)
    words = ("eval", "single-turn", "questions.jsonl", "--model-path", str(model), "-n", "2", "--max-tokens", "6")
    done = agl(*words, "--reward", "score.py", "--output", "one.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((agl.directory / "one.json").read_text())
    assert written["metrics"]["val-core/aime2024/reward/mean@2"] == 1.0
    assert written["metrics"]["val-core/openai/gsm8k/reward/mean@2"] == 0.0
    assert written["sampling"] == {"temperature": 1.0, "max_tokens": 6}
    assert all(r["answer"] == r["labels"].get("pred", "") and r["llm_calls"] == 1 for r in written["rollouts"])
    assert len({r["answer"] for r in written["rollouts"]}) > 1, "the answers are sampled"

    again = agl(*words, "--reward", "score.py", "--output", "two.json")
    assert again.returncode == 0, again.stderr
    repeated = json.loads((agl.directory / "two.json").read_text())
    assert [r["answer"] for r in repeated["rollouts"]] == [r["answer"] for r in written["rollouts"]], "one seed"


def test_it_exits_with_1_if_all_fail(agl: Any) -> None:
    write_rows(agl.directory / "bad.jsonl", [{"do": "raise"}])
    done = agl("eval", "agents:moody", "bad.jsonl")
    assert done.returncode == 1
    assert "0 succeeded, 1 failed" in done.stdout
    assert len(list((agl.directory / "evals").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("agents:chatty", "sums.jsonl"), "needs a model"),
        (("single-turn", "sums.jsonl"), "dataset `sums.jsonl`, row 1, column `prompt`: is missing"),
        (("single-turn", "sums.jsonl"), "Rename the right one to that"),
        (("agents:moody", "moods.jsonl", "--reward", "x.py"), "`--reward` is for the agent `single-turn`"),
        (("single-turn", "moods.jsonl", "--reward", "x.py"), "x.py` is not a file"),
        (("agents:moody", "none.jsonl"), "`none.jsonl` is not a file"),
        (("agents:moody", "moods.jsonl", "--model", "m"), "go together"),
    ],
)
def test_what_cannot_work_is_one_line(agl: Any, arguments: tuple[str, ...], expected: str) -> None:
    done = agl("eval", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert not (agl.directory / "evals").exists()
