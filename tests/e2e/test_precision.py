"""A run in bf16: it learns, checks what was recorded in each step, and goes on from its checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM

import agentlightning as agl

from .letters import TASKS, config, make_model, train

SHORT: dict[str, Any] = {
    "actor_rollout_ref.rollout.n": 4,
    "trainer.save_freq": 1,
    "trainer.test_freq": -1,
    "trainer.val_before_train": False,
    "trainer.logger": [],
}
BF16: dict[str, Any] = {**SHORT, "actor_rollout_ref.actor.fsdp_config.model_dtype": "bf16"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("changes", [{}, {"actor_rollout_ref.model.lora_rank": 4}])
def test_a_run_in_bf16_learns_and_goes_on(model: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = tmp_path / "run"
    begun = train(run, model, **BF16, **changes, **{"trainer.total_training_steps": 2})
    rows = train(run, model, resume=True, **BF16, **changes, **{"trainer.total_training_steps": 3}).history
    assert rows[:2] == begun.history
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert math.isfinite(row["actor/pg_loss"])
        assert math.isfinite(row["actor/grad_norm"])
        assert row["actor/skipped_nonfinite"] == 0
        assert row["training/rollout_probs_diff_valid"] == 1, "old log-probs are computed anew"
        assert row["training/rollout_logprob_gap"] < 0.1
        assert row["actor/abs_log_ratio"] < 1e-6, "they are those of the weights in training"
    assert any(row["actor/grad_norm"] > 0 for row in rows)
    saved = AutoModelForCausalLM.from_pretrained(
        run / "checkpoints" / "global_step_3" / "actor" / "huggingface", dtype="auto"
    )
    assert saved.dtype == torch.bfloat16
    before = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in saved.state_dict().items())


def test_top_k_of_the_configuration_is_what_agents_are_sampled_with(model: Path, tmp_path: Path) -> None:
    """With k = 1 the answers to one task are all the same, whatever the agent asks for."""

    @agl.rollout
    def asks_for_more(task: Any, llm: agl.LLM) -> float:
        client = OpenAI(base_url=llm.get_base_url(), api_key=llm.api_key or "none")
        ask = {"model": llm.model, "messages": [{"role": "user", "content": task["word"]}]}
        answer = client.chat.completions.create(**ask, extra_body={"top_k": 50})
        seen.setdefault(task["word"], set()).add(answer.choices[0].message.content)
        return 1.0

    key = "actor_rollout_ref.rollout.top_k"
    for k, alike in ((1, True), (-1, False)):
        seen: dict[str, set[str]] = {}
        algorithm = agl.VERL(config(model, **SHORT, **{key: k, "trainer.total_training_steps": 1}))
        agl.Trainer(algorithm=algorithm, n_runners=4, run_dir=tmp_path / str(k)).fit(asks_for_more, TASKS)
        assert len(seen) == 4
        assert all(len(answers) == 1 for answers in seen.values()) is alike
