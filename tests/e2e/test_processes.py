"""Training with runner processes: the same numbers as in one process, also when a process is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl

from .letters import TASKS, config, letters_agent, make_model

STEPS = {"trainer.total_training_steps": 3, "trainer.test_freq": 3, "trainer.save_freq": 3}


class KillOnce(agl.Hook):
    """Kills its own process in the middle of a step, one time in all."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    async def on_rollout_end(self, *, rollout: Any, **about: Any) -> None:
        if rollout.metadata["step"] == 2 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def metrics(run_dir: Path, model: Path, **options: Any) -> list[dict[str, Any]]:
    """By step, times aside."""
    trainer = agl.Trainer(algorithm=agl.VERL(config(model, **STEPS)), run_dir=run_dir, **options)
    trainer.fit(letters_agent, TASKS, val_dataset=TASKS)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("timing_", "perf/"))} for line in lines]


@pytest.mark.slow
def test_runner_processes_and_lost_workers_change_no_number(tmp_path: Path):
    model = make_model(tmp_path / "tiny")
    here = metrics(tmp_path / "here", model, n_runners=4)
    marker = tmp_path / "killed"
    there = metrics(tmp_path / "there", model, n_runners=2, max_concurrency=2, strategy="cs", hooks=KillOnce(marker))
    assert marker.exists()
    assert there == here
