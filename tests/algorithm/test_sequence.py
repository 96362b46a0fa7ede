"""`Sequence`: prompts and weights in turn, on one store, with a real model and a real endpoint."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import agentlightning as agl
from agentlightning.types import ConfigError
from tests.e2e.letters import TASKS, config, make_model
from tests.endpoint import Endpoint, served

STEPS = 4


@agl.rollout
def polite_letters(task: Any, resources: agl.NamedResources) -> float:
    """Half of the reward is the model's, for an answer with an `a`; half is the prompt's, for being polite."""
    llm, prompt = resources["main_llm"], resources["prompt"]
    assert isinstance(llm, agl.LLM)
    assert isinstance(prompt, agl.PromptTemplate)
    with openai.OpenAI(base_url=llm.get_base_url(), api_key=llm.api_key or "none") as client:
        answer = client.chat.completions.create(
            model=llm.model,
            messages=[{"role": "user", "content": prompt.format(word=task["word"])}],
            max_tokens=4,
        )
    return 0.5 * ("a" in (answer.choices[0].message.content or "")) + 0.5 * ("nice" in prompt.template)


def critic_and_editor(body: dict[str, Any]) -> str:
    prompt = body["messages"][-1]["content"].split("<prompt>")[1].split("</prompt>")[0].strip()
    return "be nice" if body["model"] == "critic" else f"<new_prompt>{prompt} nice</new_prompt>"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with served(critic_and_editor) as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def fit(run_dir: Path, model: Path, url: str, *, resume: bool = False, hooks: Any = ()) -> agl.Sequence:
    apo = agl.APO(
        openai.AsyncOpenAI(base_url=url, api_key="none"),
        gradient_model="critic",
        apply_edit_model="editor",
        beam_width=1,
        branch_factor=1,
        beam_rounds=1,
    )
    verl = agl.VERL(
        config(model, **{"trainer.total_training_steps": STEPS, "trainer.logger": [], "trainer.save_freq": 1})
    )
    algorithm = agl.Sequence([apo, verl], rounds=2)
    start: agl.NamedResources = {"prompt": agl.PromptTemplate(template="say {word}")}
    trainer = agl.Trainer(algorithm=algorithm, n_runners=4, run_dir=run_dir, initial_resources=start, hooks=list(hooks))
    trainer.fit(polite_letters, TASKS, val_dataset=TASKS[:4], resume=resume)
    return algorithm


async def rollouts(run_dir: Path) -> list[agl.Rollout]:
    store = agl.SqlLightningStore(run_dir / "store.sqlite")
    try:
        return list(await store.query_rollouts(status_in=["succeeded"]))
    finally:
        await store.close()


def test_prompts_and_weights_take_turns(model: Path, tmp_path: Path, endpoint: Endpoint) -> None:
    run_dir = tmp_path / "run"
    algorithm = fit(run_dir, model, endpoint.url)
    prompt = algorithm.tuned_resources()["prompt"]
    assert isinstance(prompt, agl.PromptTemplate)
    assert "nice" in prompt.template
    apo, verl = algorithm.algorithms
    assert isinstance(verl, agl.VERL)
    assert [row["step"] for row in verl.history if "actor/grad_norm" in row] == [1, 2, 3, 4], "the second turn went on"
    assert sorted(file.name for file in run_dir.glob("turn-*.json")) == [f"turn-{n}.json" for n in range(4)]
    made = asyncio.run(rollouts(run_dir))
    steps = [r for r in made if "step" in (r.metadata or {}) and r.mode == "train"]
    tried = [r for r in made if "prompts" in ((r.metadata or {}).get("apo") or {})]
    assert {r.metadata["step"] for r in steps if r.metadata} == {1, 2, 3, 4}
    assert {r.metadata["apo"]["scope"] for r in tried if r.metadata} == {"0-apo-0", "0-apo-1"}
    order = [("rl" if r in steps else "apo") for r in sorted([*steps, *tried], key=lambda r: r.start_time)]
    turns = [kind for kind, before in zip(order, [None, *order], strict=False) if kind != before]
    assert turns == ["apo", "rl", "apo", "rl"]
    assert isinstance(apo, agl.APO)
    assert apo.state is not None
    assert "nice" in apo.state.candidates[0].texts["prompt"], "the second turn began with the best of the first"


KILLED = """
import os, signal, sys
from pathlib import Path
import agentlightning as agl
from tests.algorithm.test_sequence import fit

class Crash(agl.Hook):
    async def on_rollout_end(self, *, agent, runner, rollout, spans):
        if rollout.metadata.get("step") == 2:
            os.kill(os.getpid(), signal.SIGKILL)

fit(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], hooks=[Crash()])
"""


def test_a_killed_sequence_goes_on_in_its_turn(model: Path, tmp_path: Path, endpoint: Endpoint) -> None:
    run_dir = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(run_dir), str(model), endpoint.url]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert ended.returncode == -signal.SIGKILL
    asked = len(endpoint.bodies)
    algorithm = fit(run_dir, model, endpoint.url, resume=True)
    verl = algorithm.algorithms[1]
    assert isinstance(verl, agl.VERL)
    assert [row["step"] for row in verl.history if "actor/grad_norm" in row] == [1, 2, 3, 4]
    assert len(endpoint.bodies) == asked + 2, "one critique and one edit of the second turn"


def test_what_a_sequence_can_not_do_is_said() -> None:
    with pytest.raises(ConfigError, match="`algorithms` must be a list of algorithms"):
        agl.Sequence([])
    with pytest.raises(ConfigError, match="`rounds` must be at least 1, not 0"):
        agl.Sequence([agl.Baseline()], rounds=0)
