"""Two agents in one rollout, for real: the gateway's calls find their agents, and each is trained on its own reward."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.adapter import episode_from_spans

from .letters import _client, config, make_model

TASKS = [{"word": "cat"}, {"word": "bird"}]


@agl.rollout
def two_agents(task: Any, llm: agl.LLM) -> None:
    client = _client.with_options(base_url=llm.get_base_url(), api_key=llm.api_key or "none")

    def ask(text: str) -> str:
        asked = [{"role": "user", "content": text}]
        answer = client.chat.completions.create(model=llm.model, messages=asked, max_tokens=4)  # type: ignore[arg-type]
        return answer.choices[0].message.content or ""

    with agl.operation(**{"agent.name": "writer"}):
        written = ask(f"say {task['word']}")
    with agl.operation(**{"agent.name": "critic"}):
        judged = ask(f"is it {task['word']}")
    agl.emit_reward({"writer": float("a" in written), "critic": float("e" in judged)}, primary_key="writer")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def train(model: Path, run_dir: Path, **arguments: Any) -> Any:
    changes = {
        "data.train_batch_size": 2,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
        "trainer.total_training_steps": 1,
        "trainer.val_before_train": False,
    }
    algorithm = agl.VERL(config(model, **changes), **arguments)
    agl.Trainer(algorithm=algorithm, n_runners=4, run_dir=run_dir).fit(two_agents, TASKS)
    return algorithm


async def read(run_dir: Path) -> dict[int, list[Any]]:
    """Episodes by task."""
    store = agl.SqlLightningStore(run_dir / "store.sqlite")
    try:
        rollouts = await store.query_rollouts(status_in=["succeeded"])
        spans = await store.query_many_spans([(r.rollout_id, r.attempt.attempt_id) for r in rollouts])  # type: ignore[attr-defined]
    finally:
        await store.close()
    found: dict[int, list[Any]] = {}
    for rollout in rollouts:
        episode = episode_from_spans(spans[rollout.rollout_id], rollout.rollout_id)
        found.setdefault((rollout.metadata or {})["task"], []).append(episode)
    return found


def test_each_agent_is_trained_on_its_own_reward(model: Path, tmp_path: Path) -> None:
    algorithm = train(model, tmp_path / "run", credit="by_agent")
    groups = asyncio.run(read(tmp_path / "run"))
    advantages: list[float] = []
    for group in groups.values():
        assert [[turn.agent for turn in episode.turns] for episode in group] == [["writer", "critic"]] * 8
        for agent in ("writer", "critic"):
            rewards = [episode.rewards[agent] for episode in group]
            mean = sum(rewards) / 8
            deviation = (sum((r - mean) ** 2 for r in rewards) / 7) ** 0.5
            advantages += [(r - mean) / (deviation + 1e-6) if deviation else 0.0 for r in rewards]
    assert max(advantages) > 0, "the tiny model's answers differ"
    (row,) = algorithm.history
    assert row["critic/advantages/max"] == pytest.approx(max(advantages))
    assert row["critic/advantages/min"] == pytest.approx(min(advantages))
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["config"]["agentlightning"]["credit"] == "by_agent"


def test_one_agent_of_two_is_trained_alone(model: Path, tmp_path: Path) -> None:
    algorithm = train(model, tmp_path / "run", adapter=agl.TracerTraceToTriplet(agent_match="writer"))
    (row,) = algorithm.history
    assert (row["num_turns/min"], row["num_turns/max"]) == (1, 1)
    assert row["training/n_rows"] == 16
    assert row["actor/grad_norm"] > 0
