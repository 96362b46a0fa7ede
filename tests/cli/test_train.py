"""`agl train`: a run from the command line, refused, resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = (
    "actor_rollout_ref.rollout.n=2",
    "data.train_batch_size=2",
    "data.max_prompt_length=32",
    "data.max_response_length=8",
    "trainer.val_before_train=false",
    "trainer.save_freq=1",
)


def steps(directory: Path) -> list[int]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_run_is_kept_refused_and_resumed(agl: Any, model: Path) -> None:
    words = ("train", "agents:chatty", "--train", "sums.jsonl", "--val", "sums.jsonl", "--run", "first", *SMALL)
    words += (f"actor_rollout_ref.model.path={model}",)
    run = agl.directory / "runs" / "first"

    done = agl(*words, "trainer.total_training_steps=1")
    assert done.returncode == 0, done.stderr
    assert f"run: {Path('runs/first')}" in done.stdout
    assert steps(run)[-1] == 1
    checkpoint = next(line for line in done.stdout.splitlines() if line.startswith("checkpoint: "))
    assert Path(agl.directory, checkpoint.removeprefix("checkpoint: ")).is_dir()

    again = agl(*words, "trainer.total_training_steps=1")
    assert again.returncode == 2
    assert "run `runs/first` exists" in again.stderr

    resumed = agl(*words, "--resume", "trainer.total_training_steps=2")
    assert resumed.returncode == 0, resumed.stderr
    assert steps(run)[-1] == 2
    assert steps(run).count(1) == 1, "the first step was not run again"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--train", "sums.jsonl"), "actor_rollout_ref.model.path"),
        (("--train", "sums.jsonl", "algorithm.adv_estimater=grpo"), "algorithm.adv_estimator"),
        (("--train", "sums.jsonl", "nonsense"), "nonsense"),
        (("--train", "none.jsonl", "actor_rollout_ref.model.path=x"), "`none.jsonl` is not a file"),
        (("actor_rollout_ref.model.path=x",), "there are no tasks"),
        (("--train", "sums.jsonl", "actor_rollout_ref.model.path=./nowhere"), "nowhere"),
        (("--train", "sums.jsonl", "actor_rollout_ref.model.path=x", "--resume"), "no run `runs/bad` to resume"),
        (("--train", "sums.jsonl", "actor_rollout_ref.model.path=x", "--concurrency", "0"), "`max_concurrency`"),
    ],
)
def test_what_cannot_work_is_an_error_and_leaves_no_run(agl: Any, arguments: tuple[str, ...], expected: str) -> None:
    done = agl("train", "agents:chatty", "--run", "bad", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (agl.directory / "runs" / "bad").exists()


@pytest.mark.parametrize("name", ["a/b", "../a", "/tmp/a", ".", "..", ""])
def test_the_name_of_a_run_is_a_name(agl: Any, name: str) -> None:
    done = agl("train", "agents:chatty", "--run", name, "--train", "sums.jsonl", "actor_rollout_ref.model.path=x")
    assert done.returncode == 2
    assert "`--run` is a name" in done.stderr
