"""Both policies learn from one reward; with either of them frozen, less is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import agentlightning as agl
from examples.planner_worker.agent import depot_agent
from examples.planner_worker.train import ROLES, train, warm_start

CHANGES: dict[str, Any] = {"trainer.total_training_steps": 10, "trainer.test_freq": -1, "trainer.logger": []}


class Said:
    """Stands in for an LLM of the OpenAI client: notes what it is asked, answers what it is told."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Said]:
    """The two LLMs by name, in place of `say`."""
    llms = {
        "planner": Said({"two pallets of butter": "cold big"}),
        "worker": Said({"cold big": "B", "cold small": "A"}),
    }

    def say(llm: Said, text: str) -> str:
        llm.asked.append(text)
        return llm.answers[text]

    monkeypatch.setattr("examples.planner_worker.agent.say", say)
    return llms


@pytest.mark.parametrize(("door", "reward"), [("B", 1.0), ("A", 0.0)])
def test_the_worker_sees_the_plan_and_nothing_else(spoken: dict[str, Said], door: str, reward: float) -> None:
    task = {"request": "two pallets of butter", "door": door}
    assert depot_agent(task, resources=spoken) == reward  # type: ignore[arg-type]
    assert spoken["planner"].asked == ["two pallets of butter"]
    assert spoken["worker"].asked == ["cold big"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("models")
    return {role: warm_start(role, directory, seed=0) for role in ROLES}


def learned(algorithm: agl.VERL) -> float:
    return algorithm.history[-1]["val/reward"] - algorithm.history[0]["val/reward"]


def moved(algorithm: agl.VERL, models: dict[str, Path]) -> dict[str, float]:
    """How far each trained policy's weights are from its start, at most; by role."""
    found: dict[str, float] = {}
    for role in ROLES:
        trained = Path(str(algorithm.checkpoint)) / role / "actor" / "huggingface" / "model.safetensors"
        if trained.exists():
            start, end = load_file(models[role] / "model.safetensors"), load_file(trained)
            found[role] = max(torch.dist(start[name], end[name], p=float("inf")).item() for name in start)
    return found


@pytest.mark.learning
@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute where the machine is idle
def test_both_learn_and_freezing_either_costs(models: dict[str, Path], tmp_path: Path) -> None:
    both = train(models, tmp_path / "both", 0, None, CHANGES)
    alone = {role: train(models, tmp_path / role, 0, role, CHANGES) for role in ROLES}
    assert learned(both) >= 0.15
    for role, algorithm in alone.items():
        assert learned(both) >= learned(algorithm) + 0.1, f"without the {role}"
        assert set(moved(algorithm, models)) == {*ROLES} - {role}
    assert set(moved(both, models)) == {*ROLES}
    assert min(moved(both, models).values()) > 1e-3
