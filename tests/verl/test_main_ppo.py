"""`python -m agentlightning.verl.main_ppo`: a run from data files, as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlightning.learner.tiny_model import tiny_model
from agentlightning.verl.main_ppo import main

REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, letter="a"):
    assert data_source == "letters"
    assert ground_truth == str(extra_info["index"])
    found = letter in solution_str
    return {"score": float(found), "acc": found, "size": len(solution_str), "pred": solution_str[:1]}
"""
SMALL = (
    "algorithm.adv_estimator=grpo",
    "actor_rollout_ref.rollout.n=4",
    "data.train_batch_size=2",
    "data.max_prompt_length=64",
    "data.max_response_length=4",
    "trainer.save_freq=1",
    "actor_rollout_ref.model.path=model",
    "agentlightning.threads=1",
)
CUSTOM = ("reward.custom_reward_function.path=reward.py", "+reward.custom_reward_function.reward_kwargs.letter=o")


def question(index: int, source: str = "letters") -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": f"say one {'cat' if index % 2 else 'two'} {index}"}],
        "reward_model": {"style": "rule", "ground_truth": str(index)},
        "extra_info": {"index": index},
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(
        tmp_path_factory.mktemp("model") / "model",
        ["say one two four cat mat"],
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=64,
    )


@pytest.fixture
def project(tmp_path: Path, tiny: Path) -> Path:
    """A directory with a model, data and a reward function."""
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "model").symlink_to(tiny)
    (tmp_path / "reward.py").write_text(REWARD)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([question(index) for index in range(4)]), tmp_path / "train.parquet"
    )
    write(tmp_path / "val.jsonl", [question(index) for index in range(4, 7)])
    (tmp_path / "sums.json").write_text(json.dumps([question(index, "openai/gsm8k") for index in range(4)]))
    return tmp_path


def main_ppo(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "160", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "agentlightning.verl.main_ppo", *words],
        cwd=project,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def metrics(project: Path, name: str = "verl_examples/gsm8k") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_a_reward_function_is_kept_and_goes_on(project: Path) -> None:
    words = (*SMALL, *CUSTOM, "data.train_files=train.parquet", "data.val_files=val.jsonl")
    words += ("trainer.project_name=letters", "trainer.experiment_name=first")
    done = main_ppo(project, *words, "trainer.total_training_steps=1")
    assert done.returncode == 0, done.stderr
    before, step = metrics(project, "letters/first")
    assert (before["step"], step["step"]) == (0, 1)
    assert step["training/n_rollouts"] == 8.0
    assert step["training/n_rollouts_failed"] == 0.0, "the function's own assertions held"
    assert before["val-core/letters/acc/mean@1"] == before["val-aux/letters/score/mean@1"] == before["val/reward"]
    assert before["val-aux/letters/size/mean@1"] > 0
    assert "letters" in done.stdout
    assert "95 % interval" in done.stdout
    checkpoint = Path(project, "runs/letters/first/checkpoints/global_step_1")
    assert checkpoint.is_dir()
    assert f"checkpoint: {checkpoint.relative_to(project)}" in done.stdout

    again = main_ppo(project, *words, "trainer.total_training_steps=2")
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in metrics(project, "letters/first")] == [0, 1, 2]
    assert metrics(project, "letters/first")[1] == step, "the first step was not run again"

    refused = main_ppo(project, *words, "trainer.total_training_steps=3", "trainer.resume_mode=disable")
    assert refused.returncode == 2
    assert "`runs/letters/first` exists" in refused.stderr


def test_validation_alone_measures_and_stops(project: Path) -> None:
    validation = "actor_rollout_ref.rollout.val_kwargs"
    done = main_ppo(
        project,
        *SMALL,
        *CUSTOM,
        "data.val_files=val.jsonl",
        "trainer.val_only=True",
        f"{validation}.n=3",
        f"{validation}.do_sample=True",
        f"{validation}.temperature=1.0",
        "--run-dir",
        "measured",
    )
    assert done.returncode == 0, done.stderr
    [row] = [json.loads(line) for line in (project / "measured" / "metrics.jsonl").read_text().splitlines()]
    assert row["val/n_rollouts"] == 9.0
    core = {name for name in row if name.startswith("val-core/")}
    assert core == {
        "val-core/letters/acc/mean@3",
        *(f"val-core/letters/acc/{kind}@3/{moment}" for kind in ("best", "maj") for moment in ("mean", "std")),
    }
    assert "maj@3" in done.stdout
    assert "run: measured" in done.stdout
    assert not list((project / "measured").glob("checkpoints/global_step_*"))


def test_rules_score_by_data_source_and_a_preset_is_a_start(project: Path) -> None:
    done = main_ppo(
        project, *SMALL[1:], "--config-name=grpo", "data.train_files=[sums.json]", "trainer.total_training_steps=1"
    )
    assert done.returncode == 0, done.stderr
    [step] = metrics(project)
    assert step["critic/score/max"] == 0.0, "no random answer holds the hashes"
    assert step["training/n_rollouts_w_reward"] == 8.0
    assert json.loads((project / "runs/verl_examples/gsm8k/config.json").read_text())["config"]["algorithm"][
        "adv_estimator"
    ] == ("grpo")


def test_an_answer_that_cannot_be_scored_fails_its_attempt_with_the_exception(project: Path) -> None:
    (project / "reward.py").write_text("def compute_score(**row):\n    raise KeyError('no [score] today')\n")
    done = main_ppo(project, *SMALL, CUSTOM[0], "data.train_files=train.parquet", "trainer.total_training_steps=1")
    assert done.returncode == 2
    assert "8 of 8 rollouts failed" in done.stderr
    assert "KeyError: 'no [score] today'" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "`data.train_files` is not set"),
        (("trainer.val_only=True",), "`data.val_files` is not set"),
        (("data.train_files=none.jsonl",), "`none.jsonl` is not a file"),
        (("data.train_files=train.parquet",), "dataset `train.parquet`, row 1, column `data_source`: no rule scores"),
        (("data.train_files=sums.json", "data.prompt_key=question"), "row 1, column `question`: is missing"),
        (("data.train_files=sums.json", "data.max_prompt_length=3"), "`data.filter_overlong_prompts=True`"),
        (("data.train_files=sums.json", "reward.custom_reward_function.path=none.py"), "none.py` is not a file"),
        (("data.train_files=sums.json", "data.trainfiles=x"), "`data.trainfiles`"),
        (("data.train_files=sums.json", "--config-name", "nonsense"), "no preset 'nonsense'"),
        (("--config-path", "here"), "`--config-name NAME`"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_no_run(
    project: Path,
    words: tuple[str, ...],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    given = {word.partition("=")[0] for word in words}
    with pytest.raises(SystemExit) as ended:
        main([*(word for word in SMALL if word.partition("=")[0] not in given), *words])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert expected in said
    assert not (project / "runs").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for word in ("data.train_files=FILE", "compute_score(data_source", "trainer.resume_mode=auto", "example:", "dapo"):
        assert word in said
