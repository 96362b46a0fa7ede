"""Rollouts as text, under verl's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentlightning.types import ModelError
from agentlightning.verl.dump import describe, some, write_lines

from .rollouts import call, one_turn, sample


class Words:
    """Token n is the word `wn`."""

    def decode(self, ids: Any, *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(f"w{token}" for token in ids.tolist())


TOKENIZERS = {"main_llm": Words()}


def test_a_line_holds_what_was_asked_what_came_and_what_it_was_worth() -> None:
    task = {"prompt": "?", "reward_model": {"ground_truth": "4"}}
    calls = [call([1, 2], [3]), call([1, 2, 3, 7, 8], [9])]
    made = sample(task, 0, calls, 0.5, step=6, draw=1, quality=0.25, score=9.0)
    (line,) = describe([made], TOKENIZERS, fill=0.0, shape=lambda episode: -0.1)
    assert line == {
        "input": "w1 w2",
        "output": "w3 w7 w8 w9",
        "gts": "4",
        "score": 0.4,
        "step": 6,
        "uid": f"{task}-1",
        "rollout_id": made.rollout.rollout_id,
        "quality": 0.25,
    }


def test_a_rollout_that_never_spoke_and_has_no_reward() -> None:
    (line,) = describe([sample({"ground_truth": [1]}, 0, [], None)], TOKENIZERS, fill=-1.0)
    assert (line["input"], line["output"], line["score"], line["gts"]) == ("", "", -1.0, [1])


def test_lines_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    lines = describe([one_turn(0, 0, float("nan")), one_turn(0, 1, 1.0)], TOKENIZERS, fill=0.0)
    path = write_lines(str(tmp_path / "new" / "dumps"), 3, lines)
    assert path.name == "3.jsonl"
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["score"] for row in read] == [None, 1.0]
    write_lines(str(path.parent), 3, lines[:1])  # a resumed run makes the step again
    assert len(path.read_text().splitlines()) == 1
    assert [file.name for file in path.parent.iterdir()] == ["3.jsonl"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="can't write the rollouts of step 4"):
        write_lines(str(tmp_path / "file"), 4, lines)


def test_the_answers_shown_are_the_same_in_every_validation() -> None:
    samples = [one_turn(task, 0, 1.0) for task in range(20)]
    shown = [sample.task for sample in some(samples, 5)]
    assert shown == sorted(shown)
    assert len(set(shown)) == 5
    assert shown == [sample.task for sample in some(list(samples), 5)]
    assert len(some(samples, 100)) == 20
