import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agentlightning.report.metrics import MetricsLogger, read_metrics
from agentlightning.report.sinks import missing_package
from agentlightning.types import ConfigError, TrainingError


def test_one_line_a_step_written_at_once(tmp_path: Path):
    with MetricsLogger(tmp_path / "run") as logger:
        logger.log({"step": 0, "val/reward": 0.1 + 0.2})
        logger.log({"step": 1, "count": np.int64(3), "score": np.float32(0.5), "bad": float("nan")})
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()  # before it is closed
    assert [json.loads(line) for line in lines] == [
        {"step": 0, "val/reward": 0.1 + 0.2},
        {"step": 1, "count": 3, "score": 0.5, "bad": None},
    ]
    assert read_metrics(tmp_path / "run")[0]["val/reward"] == 0.1 + 0.2


def test_resume_drops_later_steps_and_a_torn_line(tmp_path: Path):
    with MetricsLogger(tmp_path) as logger:
        for step in range(6):
            logger.log({"step": step, "reward": step / 10})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "rew')
    with MetricsLogger(tmp_path) as logger:
        history = logger.resume(3)
        assert [row["step"] for row in history] == [0, 1, 2, 3]
        logger.log({"step": 4, "reward": 7.0})
    assert [(row["step"], row["reward"]) for row in read_metrics(tmp_path)][-2:] == [(3, 0.3), (4, 7.0)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_resume_from_nothing_begins_anew(tmp_path: Path):
    with MetricsLogger(tmp_path) as logger:
        assert logger.resume(0) == []
        logger.log({"step": 0, "val/reward": 0.5})
        assert logger.resume(0) == []
        logger.log({"step": 0, "val/reward": 0.6})
    assert read_metrics(tmp_path) == [{"step": 0, "val/reward": 0.6}]


def test_a_damaged_line_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 0}\n{"step": \n{"step": 2}\n')
    with pytest.raises(TrainingError, match="line 2"):
        MetricsLogger(tmp_path).resume(2)


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with MetricsLogger(None, ["console", "tensorboard"]) as logger:
        assert logger.resume(3) == []
        logger.log({"step": 1, "reward": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_unknown_and_foreign_loggers(tmp_path: Path):
    with pytest.raises(ConfigError, match="'wanb' is not known"):
        MetricsLogger(tmp_path, ["console", "wanb"])
    logger = MetricsLogger(tmp_path, ["console", "file", "mlflow"])
    assert len(logger.notes) == 1
    assert "`mlflow`" in logger.notes[0]


def test_a_logger_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # W&B leaves such a directory behind, and Python takes it for a package.
    (tmp_path / "wandb").mkdir()
    monkeypatch.chdir(tmp_path)
    code = "from agentlightning.report.sinks import missing_package; print(missing_package('wandb'))"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(tmp_path), *sys.path]!r}; {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    installed = missing_package("wandb") is None
    assert result.stdout.strip() == ("None" if installed else "wandb")
    notes = MetricsLogger(tmp_path, ["wandb"]).notes
    assert (notes == []) == installed
    assert installed or "pip install 'wandb'" in notes[0]


def test_tensorboard_gets_the_numbers_and_forgets_what_a_resume_redoes(tmp_path: Path):
    with MetricsLogger(tmp_path, ["tensorboard"]) as logger:
        for step in range(1, 5):
            logger.log({"step": step, "critic/score/mean": step / 10, "missing": None})
    with MetricsLogger(tmp_path, ["tensorboard"]) as logger:
        logger.resume(2)
        logger.log({"step": 3, "critic/score/mean": 0.9})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = [(event.step, round(event.value, 6)) for event in events.Scalars("critic/score/mean")]
    assert points == [(1, 0.1), (2, 0.2), (3, 0.9)]


@pytest.mark.skipif(missing_package("wandb") is not None, reason="W&B is not installed")
def test_wandb_keeps_one_run_over_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (1, 2):
        with MetricsLogger(tmp_path, ["wandb"], project="p", experiment="e") as logger:
            logger.log({"step": step, "reward": 0.5})
    run_id = (tmp_path / "wandb_id").read_text()
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))) >= 1


def test_a_kill_leaves_whole_lines(tmp_path: Path):
    code = (
        "import os, sys, pathlib; from agentlightning.report.metrics import MetricsLogger;"
        "logger = MetricsLogger(pathlib.Path(sys.argv[1]));"
        "[logger.log({'step': step, 'x': list(range(1000))}) for step in range(20)];"
        "os.kill(os.getpid(), 9)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert result.returncode == -9
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(20))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_error(tmp_path: Path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with MetricsLogger(tmp_path) as logger, pytest.raises(TrainingError, match=r"metrics\.jsonl.*make room and resume"):
        logger.log({"step": 1})


def test_reports_are_light():
    code = (
        "import sys; import agentlightning.report.metrics, agentlightning.report.progress, agentlightning.report.plot,"
        "agentlightning.report.table, agentlightning.report.rss;"
        "print([m for m in ('torch', 'matplotlib', 'tensorboard', 'wandb') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
