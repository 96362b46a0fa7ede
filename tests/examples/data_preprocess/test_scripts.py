"""The scripts that turn public question sets into training rows, on a few rows of their form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlightning.algorithm.data import load_dataset
from agentlightning.types import DatasetError
from agentlightning.verl.prompts import prompt_rows
from agentlightning.verl.reward import compute_score
from examples.data_preprocess import aime, arithmetic, gsm8k, math_dataset

GSM8K = {
    "question": "Ann has 4 boxes of 300 eggs. How many eggs?",
    "answer": "4 * 300 = <<4*300=1200>>1200\n#### 1,200",
}
MATH = {"problem": "What is half of one?", "solution": r"It is $\boxed{\frac{1}{2}}$.", "level": "1", "type": "Algebra"}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def check(path: Path) -> list[dict[str, Any]]:
    """The rows written, each fit for both kinds of training: its own worked answer earns the full reward."""
    rows = load_dataset(path)
    for row in rows:
        assert row["messages"][:-1] == row["prompt"]
        answer = row["messages"][-1]
        assert answer["role"] == "assistant"
        score = compute_score(row["data_source"], answer["content"], row["reward_model"]["ground_truth"])
        assert (score["score"] if isinstance(score, dict) else score) == 1.0
    assert len(prompt_rows(str(path), rows)) == len(rows)
    return rows


def test_gsm8k_from_a_local_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "copy" / "main" / "train-0.jsonl", [GSM8K, {"question": "?", "answer": "no result"}])
    write(tmp_path / "copy" / "main" / "test-0.jsonl", [GSM8K])
    gsm8k.main(["--local_save_dir", str(tmp_path / "out"), "--local_dataset_path", str(tmp_path / "copy")])
    [row] = check(tmp_path / "out" / "train.parquet")
    check(tmp_path / "out" / "test.parquet")
    assert row["data_source"] == "openai/gsm8k"
    assert row["reward_model"] == {"style": "rule", "ground_truth": "1200"}
    assert row["prompt"][0]["content"].startswith(GSM8K["question"])
    assert "<<" not in row["messages"][-1]["content"]
    assert (row["extra_info"]["split"], row["extra_info"]["index"]) == ("train", 0)
    assert "1 of 2 rows have no result" in capsys.readouterr().out


def test_math_with_the_old_name_of_the_flag(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "copy" / f"{split}.jsonl", [MATH])
    math_dataset.main(["--local_dir", str(tmp_path / "out"), "--local_dataset_path", str(tmp_path / "copy")])
    [row] = check(tmp_path / "out" / "train.parquet")
    assert row["reward_model"]["ground_truth"] == r"\frac{1}{2}"


@pytest.mark.parametrize(
    "given",
    [{"Problem": "p", "Solution": "s", "Answer": 204, "ID": "2024-I-1"}, {"problem": "p", "answer": "204"}],
)
def test_aime_whatever_its_columns_are_called(tmp_path: Path, given: dict[str, Any]) -> None:
    write(tmp_path / "rows.jsonl", [given])
    out = tmp_path / "out"
    aime.main(["--year", "2025", "--local_save_dir", str(out), "--local_dataset_path", str(tmp_path / "rows.jsonl")])
    [row] = check(out / "test.parquet")
    assert (row["data_source"], row["reward_model"]["ground_truth"]) == ("aime2025", "204")


def test_generated_sums_need_nothing_from_outside(tmp_path: Path) -> None:
    arithmetic.main(["--local_save_dir", str(tmp_path), "--size", "30", "--largest", "9"])
    train, test = check(tmp_path / "train.parquet"), check(tmp_path / "test.parquet")
    assert (len(train), len(test)) == (24, 6)
    questions = [row["extra_info"]["question"] for row in (*train, *test)]
    assert len(set(questions)) == 30
    for row in (*train, *test):
        asked = row["extra_info"]["question"].removeprefix("What is ").removesuffix("?")
        assert str(eval(asked)) == row["reward_model"]["ground_truth"]


def test_one_seed_gives_one_dataset() -> None:
    assert arithmetic.rows(20, 9, 1) == arithmetic.rows(20, 9, 1)
    assert arithmetic.rows(20, 9, 1) != arithmetic.rows(20, 9, 2)


def test_more_sums_than_there_are_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arithmetic.main(["--local_save_dir", str(tmp_path), "--size", "13", "--largest", "1"])
    assert "--size must be from 2 to 12" in capsys.readouterr().err


def test_a_copy_without_the_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no `train\*` file"):
        gsm8k.main(["--local_save_dir", str(tmp_path / "out"), "--local_dataset_path", str(tmp_path)])


def test_without_a_copy_the_hub_is_asked_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatasetError, match="`--local_dataset_path`"):
        gsm8k.main(["--local_save_dir", str(tmp_path)])

    class Hub:
        @staticmethod
        def load_dataset(name: str, subset: str | None, split: str) -> list[dict[str, Any]]:
            assert (name, subset, split) == ("openai/gsm8k", "main", split)
            return [GSM8K]

    monkeypatch.setitem(sys.modules, "datasets", Hub)
    gsm8k.main(["--local_save_dir", str(tmp_path)])
    check(tmp_path / "test.parquet")


def test_rows_with_other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"text": "hi"}])
    with pytest.raises(DatasetError, match="row 0 has none of the columns answer; it has text"):
        gsm8k.main(["--local_save_dir", str(tmp_path), "--local_dataset_path", str(tmp_path / "rows.jsonl")])


def test_the_scripts_run_as_files_too(tmp_path: Path) -> None:
    """As verl's documents call them: `python3 examples/data_preprocess/gsm8k.py --local_save_dir ...`."""
    write(tmp_path / "raw" / "train.jsonl", [GSM8K])
    write(tmp_path / "raw" / "test.jsonl", [GSM8K])
    script = Path(gsm8k.__file__)
    arguments = ["--local_dataset_path", str(tmp_path / "raw"), "--local_save_dir", str(tmp_path / "made")]
    subprocess.run([sys.executable, str(script), *arguments], cwd=tmp_path, check=True, timeout=120)
    assert len(check(tmp_path / "made" / "train.parquet")) == 1
    wrong = ["--local_dataset_path", str(tmp_path / "none"), "--local_save_dir", str(tmp_path / "made")]
    refused = subprocess.run([sys.executable, str(script), *wrong], capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: dataset `")
    assert refused.stderr.count("\n") == 1
