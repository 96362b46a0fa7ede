"""Each client, as its users write it, trains one GRPO step on the native engine through the gateway.

The tokens that are trained must be those that the engine generated, prompt and response, and the weights must change.
"""

from __future__ import annotations

import asyncio
import importlib
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import agentlightning as agl
from agentlightning.adapter import episode_from_spans
from agentlightning.types import Episode

from .installed import client_environment
from .model import TASKS
from .watch import Call, watch

AGENTS = Path(__file__).parent / "agents"
SAMPLES = 6


@dataclass(frozen=True)
class Client:
    """A client, and what its agent is known to do."""

    name: str
    """Of its file in `agents/`."""
    tool: bool = False
    """It uses its tool, so that a rollout has two calls, the second of which continues the first token for token."""
    streams: bool = False
    choices: int = 1
    """Answers to one question."""
    runners: int = 2
    """One for a program that stays, because its imports cost seconds."""


CLIENTS = [
    Client("openai_chat", tool=True),
    Client("openai_async", choices=3),
    Client("openai_stream", tool=True, streams=True),
    Client("openai_completions", streams=True),
    Client("openai_parse"),
    Client("openai_responses", tool=True),
    Client("openai_responses_stream", streams=True),
    Client("anthropic_messages", tool=True),
    Client("anthropic_stream", tool=True, streams=True),
    Client("anthropic_tool_runner", tool=True),
    Client("langgraph_agent", tool=True),
    Client("langgraph_stream", tool=True, streams=True),
    Client("openai_agents_responses", tool=True),
    Client("openai_agents_stream", tool=True, streams=True),
    Client("openai_agents_chat", tool=True, streams=True),
    Client("pydantic_ai_agent", tool=True),
    Client("ag2_agent", tool=True),
    Client("autogen_agent", tool=True, runners=1),
    Client("litellm_agent", tool=True, runners=1),
    Client("curl_agent"),
    Client("openai_node", tool=True, streams=True),
]


def python_program(name: str, **environment: str) -> agl.LitAgent[Any]:
    python = client_environment(name) / "bin" / "python"
    return agl.command([str(python), str(AGENTS / f"{name}_agent.py")], warm=True, env=environment)


def curl_program(directory: Path) -> agl.LitAgent[Any]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return agl.command([str(AGENTS / "curl_agent.sh")], input_map={"CITY": "city", "WEATHER": "weather"})


def node_program(directory: Path) -> agl.LitAgent[Any]:
    """The program beside its packages, where Node looks for them."""
    (directory / "node_modules").symlink_to(client_environment("js") / "node_modules")
    shutil.copy(AGENTS / "openai_node.mjs", directory)
    return agl.command(["node", str(directory / "openai_node.mjs")])


PROGRAMS = {
    "autogen_agent": lambda directory: python_program("autogen"),
    # Without this it asks the network for a list of prices when it is imported.
    "litellm_agent": lambda directory: python_program("litellm", LITELLM_LOCAL_MODEL_COST_MAP="True"),
    "curl_agent": curl_program,
    "openai_node": node_program,
}


def agent_of(client: Client, directory: Path) -> Any:
    if client.name in PROGRAMS:
        return PROGRAMS[client.name](directory)
    return importlib.import_module(f"{__package__}.agents.{client.name}").agent


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_trains_one_step_on_the_engines_tokens(
    client: Client, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, seen = agent_of(client, tmp_path), watch(monkeypatch)
    algorithm = agl.VERL(config(model))
    agl.Trainer(algorithm=algorithm, n_runners=client.runners, run_dir=tmp_path / "run").fit(agent, TASKS)

    (row,) = algorithm.history
    assert row["training/n_rollouts_failed"] == 0
    groups = asyncio.run(read(tmp_path / "run"))
    assert Counter(call for group in groups for episode in group for call in calls(episode)) == Counter(
        seen.whole + seen.streamed
    )
    assert bool(seen.streamed) == client.streams
    assert bool(seen.whole) != client.streams
    learnt_from = [group for group in groups if len({episode.reward for episode in group}) > 1]
    assert learnt_from, "the rewards of a task differ, so that there is something to learn"
    assert Counter(seen.trained) == Counter(call for group in learnt_from for each in group for call in calls(each))
    assert weights_changed(model, Path(algorithm.checkpoint or "") / "actor" / "huggingface")
    assert row["training/rollout_logprob_gap"] < 1e-5

    everyone = [episode for group in groups for episode in group]
    turns = Counter(len(episode.turns) for episode in everyone)
    assert turns.most_common(1)[0][0] == (2 if client.tool else client.choices)
    if client.tool:
        assert all(len(episode.trajectories) == 1 for episode in everyone)


def config(model: Path) -> dict[str, Any]:
    return {
        "algorithm.adv_estimator": "grpo",
        "actor_rollout_ref.model.path": str(model),
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.rollout.n": SAMPLES,
        "actor_rollout_ref.actor.ppo_mini_batch_size": len(TASKS),
        "actor_rollout_ref.actor.optim.lr": 1e-3,
        "data.train_batch_size": len(TASKS),
        "data.max_prompt_length": 300,
        "data.max_response_length": 24,
        "trainer.total_training_steps": 1,
        "trainer.val_before_train": False,
        "trainer.logger": ["console"],
        "agentlightning.threads": 1,
    }


async def read(run_dir: Path) -> list[list[Episode]]:
    """What is in the store, by task."""
    store = agl.SqlLightningStore(run_dir / "store.sqlite")
    try:
        rollouts: list[Any] = [*await store.query_rollouts(status_in=["succeeded"])]
        spans = await store.query_many_spans([(r.rollout_id, r.attempt.attempt_id) for r in rollouts])
    finally:
        await store.close()
    groups: dict[int, list[Episode]] = {}
    for rollout in rollouts:
        episode = episode_from_spans(spans[rollout.rollout_id], rollout.rollout_id)
        groups.setdefault(rollout.metadata["task"], []).append(episode)
    assert [len(group) for group in groups.values()] == [SAMPLES] * len(TASKS)
    return [*groups.values()]


def calls(episode: Episode) -> list[Call]:
    return [(tuple(turn.call.prompt_ids.tolist()), tuple(turn.call.response_ids.tolist())) for turn in episode.turns]


def weights_changed(before: Path, after: Path) -> bool:
    old, new = (load_file(path / "model.safetensors") for path in (before, after))
    assert old.keys() == new.keys()
    return any((old[name] != new[name]).any() for name in old)
