"""What the samples find around them: a directory of their own, and in it a tiny model, data and a reward function."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.letters import make_model

GSM8K = [{"question": f"Tom has {n} cats. How many?", "answer": f"He has {n}.\n#### {n}"} for n in range(3, 11)]
MATH = [{"problem": f"What is {n} + 1?", "solution": f"It is $\\boxed{{{n + 1}}}$."} for n in range(3, 11)]
REWARD = '''
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """Points that a model can earn which knows nothing: for plain letters."""
    assert ground_truth and extra_info["question"]
    plain = sum(letter.isascii() and letter.isalpha() for letter in solution_str) / max(len(solution_str), 1)
    return {"score": plain, "acc": round(plain, 1)}
'''


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("seeds") / "tiny")


@pytest.fixture(autouse=True)
def home(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory to work in, but for the model, raw data sets and a reward function."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    os.symlink(model, tmp_path / "model")
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "raw").mkdir()
    return tmp_path


@pytest.fixture
def raw(home: Path) -> Path:
    """Where `--local_dataset_path` points: the tests write the rows of the data set that they are about."""
    return home / "raw"


def write_rows(directory: Path, rows: list[dict[str, str]]) -> None:
    for split in ("train", "test"):
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
