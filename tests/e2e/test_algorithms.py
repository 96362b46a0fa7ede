"""What the configuration asks for happens in a real run: greedy baselines, refill, pairs, dumps; and what agents break
on the way is counted, not fatal."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import agentlightning as agl
from agentlightning.types import ConfigError, ModelError, TrainingError
from agentlightning.verl import AgentLightningTrainer, AgentModeDaemon
from agentlightning.verl.policy import PolicyRun

from .letters import TASKS, config, letters_agent, make_model

ONE: dict[str, Any] = {
    "actor_rollout_ref.rollout.n": 4,
    "trainer.total_training_steps": 1,
    "trainer.val_before_train": False,
    "trainer.logger": [],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def run(agent: Any, model: Path, run_dir: Path, *, val: Any = None, verl: Any = None, **changes: Any) -> agl.VERL:
    algorithm = agl.VERL(config(model, **{**ONE, **changes}), **(verl or {}))
    agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=run_dir).fit(agent, TASKS, val_dataset=val)
    return algorithm


async def rollouts_of(run_dir: Path) -> list[Any]:
    """(rollout, its calls) of a run."""
    store = agl.SqlLightningStore(run_dir / "store.sqlite")
    try:
        found = await store.query_rollouts(status_in=["succeeded"])
        spans = await store.query_many_spans([(r.rollout_id, r.attempt.attempt_id) for r in found])  # type: ignore[attr-defined]
    finally:
        await store.close()
    return [(r, [s.token_call for s in spans[r.rollout_id] if s.token_call is not None]) for r in found]


def test_remax_runs_one_greedy_rollout_a_task_and_takes_its_reward_off(model: Path, tmp_path: Path) -> None:
    algorithm = run(letters_agent, model, tmp_path / "run", **{"algorithm.adv_estimator": "remax"})
    (row,) = algorithm.history
    made = asyncio.run(rollouts_of(tmp_path / "run"))
    greedy = {r.metadata["task"]: calls for r, calls in made if r.metadata.get("sampling") == "greedy"}
    sampled = [(r.metadata["task"], calls) for r, calls in made if r.metadata.get("sampling") is None]
    assert (len(greedy), len(sampled), row["training/n_rollouts"]) == (4, 16, 16)
    start, words = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    for (call,) in greedy.values():
        with torch.no_grad():
            logits = start(torch.tensor([[*call.prompt_ids.tolist(), *call.response_ids.tolist()]])).logits[0]
        assert logits[len(call.prompt_ids) - 1 : -1].argmax(-1).tolist() == call.response_ids.tolist()

    def reward(calls: Any) -> float:
        return float("a" in words.decode(calls[-1].response_ids, skip_special_tokens=True))

    advantages = [reward(calls) - reward(greedy[task]) for task, calls in sampled for _ in calls[0].response_ids]
    assert row["critic/advantages/mean"] == pytest.approx(np.mean(advantages))
    assert row["critic/advantages/min"] == min(advantages)


@agl.rollout
def easy_but_for_two(task: Any, llm: agl.LLM) -> float:
    """Only the rollouts of `cat` and `one` differ, by a coin that the answer is."""
    letter = letters_agent(task, llm)
    return letter if task["word"] in ("cat", "one") else 1.0


def test_dynamic_sampling_refills_a_step(model: Path, tmp_path: Path) -> None:
    """8 tasks, 2 at a time, for a batch of 2: groups of the other tasks never differ."""
    algorithm = run(
        easy_but_for_two,
        model,
        tmp_path / "run",
        **{
            "algorithm.filter_groups.enable": True,
            "algorithm.filter_groups.metric": "acc",
            "actor_rollout_ref.rollout.n": 16,
            "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
            "data.train_batch_size": 2,
            "data.gen_batch_size": 2,
            "data.shuffle": False,
        },
    )
    (row,) = algorithm.history
    # "cat" is task 0 and "one" task 4: the third batch of two fills the step, unless chance made one of them silent.
    assert row["training/n_generation_batches"] >= 3
    assert row["training/n_rollouts"] == 32 * row["training/n_generation_batches"]
    assert row["training/n_groups_silent"] == 2 * row["training/n_generation_batches"] - 2
    assert row["training/n_rows"] == 32
    assert row["training/zero_variance_groups"] == pytest.approx(
        row["training/n_groups_silent"] / (row["training/n_groups_silent"] + 2)
    )


def test_overlong_answers_are_penalised_in_training_and_validation(model: Path, tmp_path: Path) -> None:
    """A limit of 4 tokens with a buffer of all 4: every answer loses a quarter of a point a token."""
    shaping = "reward.reward_kwargs.overlong_buffer_cfg"
    algorithm = run(
        letters_agent,
        model,
        tmp_path / "run",
        val=TASKS,
        **{f"{shaping}.enable": True, f"{shaping}.len": 4, f"{shaping}.log": True, "trainer.test_freq": 1},
    )
    (row,) = algorithm.history
    assert row["reward/overlong_reward/mean"] == pytest.approx(-row["response_length/mean"] / 4)
    assert row["reward/overlong/mean"] == 1.0
    assert row["val-aux/unknown/overlong_reward/mean@1"] == pytest.approx(-row["val/mean_response_length"] / 4)


def test_spin_takes_the_answers_of_the_last_time_for_rejected_ones(model: Path, tmp_path: Path) -> None:
    """All eight tasks in each step, so that from the second on there are earlier answers."""
    keys = {
        "algorithm.adv_estimator": None,
        "actor_rollout_ref.actor.policy_loss.loss_mode": "online_dpo",
        "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
        "agentlightning.spin_pairs": "previous",
        "data.train_batch_size": 8,
        "trainer.total_training_steps": 2,
    }
    algorithm = run(letters_agent, model, tmp_path / "run", **keys)
    assert all(np.isfinite(row["actor/dpo_loss"]) for row in algorithm.history)
    assert algorithm.checkpoint is not None
    state = json.loads((Path(algorithm.checkpoint) / "data.json").read_text())
    answers = dict(state["collector"]["answers"])
    second = {r.rollout_id for r, _ in asyncio.run(rollouts_of(tmp_path / "run")) if r.metadata["step"] == 2}
    assert sorted(answers) == list(range(8))
    assert {rollout_id for ids in answers.values() for rollout_id in ids} == second


def test_rollouts_are_dumped_and_shown(model: Path, tmp_path: Path) -> None:
    algorithm = run(
        letters_agent,
        model,
        tmp_path / "run",
        val=[{**task, "ground_truth": "a"} for task in TASKS],
        **{
            "trainer.rollout_data_dir": str(tmp_path / "train"),
            "trainer.validation_data_dir": str(tmp_path / "val"),
            "trainer.log_val_generations": 3,
            "trainer.logger": ["tensorboard"],
        },
    )
    lines = [json.loads(line) for line in (tmp_path / "train" / "1.jsonl").read_text().splitlines()]
    assert len(lines) == 16
    assert np.mean([line["score"] for line in lines]) == pytest.approx(algorithm.history[-1]["critic/score/mean"])
    assert all(line["score"] == ("a" in line["output"]) for line in lines)
    assert all("say" in line["input"] for line in lines)
    assert len({line["uid"] for line in lines}) == 4
    validated = [json.loads(line) for line in (tmp_path / "val" / "1.jsonl").read_text().splitlines()]
    assert {line["gts"] for line in validated} == {"a"}
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"val/generations/text_summary" in events.read_bytes()


def test_every_step_says_how_fast_it_was_and_how_stale_its_rollouts(model: Path, tmp_path: Path) -> None:
    (row,) = run(letters_agent, model, tmp_path / "run").history
    tokens = row["perf/total_num_tokens"]
    assert tokens == 16 * (row["prompt_length/mean"] + row["response_length/mean"])
    assert row["perf/throughput"] == pytest.approx(tokens / row["timing_s/step"])
    assert row["global_seqlen/max"] == tokens
    assert row["timing_per_token_ms/gen"] == pytest.approx(
        1000 * row["timing_s/gen"] / (16 * row["response_length/mean"])
    )
    assert row["timing_per_token_ms/update_actor"] == pytest.approx(1000 * row["timing_s/update_actor"] / tokens)
    assert row["training/off_policy/trajectory_staleness_worst/max"] == 0.0
    assert row["training/rollout_actor_probs_pearson_corr"] == pytest.approx(1.0, abs=1e-4)


@agl.rollout
def writer_and_critic(task: Any, resources: agl.NamedResources) -> float:
    """Two models, each asked once."""
    return max(letters_agent(task, llm=resources[name]) for name in ("writer", "critic"))


def test_two_policies_learn_from_their_own_tokens_only(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[tuple[int, ...]]] = {}
    learn = PolicyRun.learn

    def watched(self: PolicyRun, groups: Any, *args: Any, **options: Any) -> None:
        rows = [row for group in groups for item in group for row in item.episode.trajectories]
        seen[self.name] = {tuple(row.token_ids.tolist()) for row in rows}
        learn(self, groups, *args, **options)

    monkeypatch.setattr(PolicyRun, "learn", watched)
    other = make_model(tmp_path / "other", seed=1)
    policies = {"writer": {}, "critic": {"actor_rollout_ref.model.path": str(other)}}
    algorithm = run(writer_and_critic, model, tmp_path / "run", **{"agentlightning.policies": policies})
    (row,) = algorithm.history
    made = asyncio.run(rollouts_of(tmp_path / "run"))
    for name in policies:
        calls = [call for _, own in made for call in own if call.model == name]
        assert seen[name] == {(*call.prompt_ids.tolist(), *call.response_ids.tolist()) for call in calls}
        assert row[f"{name}/training/n_rows"] == 16
        assert row[f"{name}/actor/grad_norm"] > 0
        assert row[f"{name}/training/rollout_logprob_gap"] < 1e-5
    assert row["training/n_rollouts"] == 16
    assert row["perf/total_num_tokens"] == sum(row[f"{name}/perf/total_num_tokens"] for name in policies)
    assert "critic/score/mean" in row
    assert "actor/grad_norm" not in row


def test_a_frozen_policy_is_served_and_left_as_it_is(model: Path, tmp_path: Path) -> None:
    policies = {"writer": {}, "critic": {"trainable": False}}
    keys = {"agentlightning.policies": policies, "actor_rollout_ref.actor.use_kl_loss": True}
    algorithm = run(writer_and_critic, model, tmp_path / "run", **keys)
    (row,) = algorithm.history
    assert "writer/actor/kl_loss" in row
    assert not any(key.startswith("critic/actor/") for key in row)
    assert row["critic/training/n_rows"] == 16
    assert algorithm.checkpoint is not None
    assert {folder.name for folder in Path(algorithm.checkpoint).iterdir() if folder.is_dir()} == {"writer"}


@agl.rollout
def breaks_numbers(task: Any, llm: agl.LLM, rollout: Any) -> None:
    """NaN for `cat`, infinity for `mat`, nothing for `bird`, the same for `sing`; a good dimension beside a bad one."""
    good = letters_agent(task, llm)
    word, number = task["word"], rollout.metadata["sample"]
    if word == "cat":
        agl.emit_reward(float("nan") if number == 0 else good)
    elif word == "mat":
        agl.emit_reward({"value": good, "other": float("inf") if number == 1 else 0.0}, primary_key="value")
    elif word == "sing":
        agl.emit_reward(1.0)


def test_rewards_that_are_no_numbers_cost_their_group_and_nothing_else(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = {"data.shuffle": False, "agentlightning.reward_fillna_value": -1.0}
    with caplog.at_level(logging.WARNING):
        (row,) = run(breaks_numbers, model, tmp_path / "run", **first).history
    assert row["training/n_groups_dropped"] == 2
    assert (row["training/n_rollouts"], row["training/n_rollouts_failed"]) == (16, 2)
    assert row["critic/score/min"] == -1.0, "missing ones"
    assert row["critic/score/max"] == 1.0
    assert row["training/zero_variance_groups"] == 1.0
    assert row["actor/lr"] > 0
    assert "2 of 4 groups are left out" in caplog.text
    assert "must be a finite number, not nan" in caplog.text


def test_a_checkpoint_of_another_model_is_refused_with_its_first_difference(model: Path, tmp_path: Path) -> None:
    algorithm = run(letters_agent, model, tmp_path / "run")
    other = agl.tiny_model(tmp_path / "other", ["a cat"], hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=1)
    path = {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": algorithm.checkpoint}
    with pytest.raises(ModelError, match=r"another model: `.*` is .* there, .* here"):
        run(letters_agent, other, tmp_path / "again", **path)


def test_the_loop_and_the_daemon_can_be_replaced(model: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    class Loop(AgentLightningTrainer):
        async def fit(self, *datasets: Any) -> None:
            seen.append(type(self).__name__)
            await super().fit(*datasets)

    class Daemon(AgentModeDaemon):
        async def run_batch(self, *args: Any, **options: Any) -> Any:
            seen.append(options["mode"])
            return await super().run_batch(*args, **options)

    algorithm = run(letters_agent, model, tmp_path / "run", val=TASKS, verl={"trainer_cls": Loop, "daemon_cls": Daemon})
    assert seen == ["Loop", "train", "val"]
    assert [row["step"] for row in algorithm.history] == [1]
    assert algorithm.history[0]["val/n_rollouts"] == 8


def test_what_is_missing_without_a_trainer_is_named(model: Path) -> None:
    algorithm = agl.VERL(config(model, **ONE))

    def complaint() -> str:
        with pytest.raises(ValueError, match="`VERL` has no") as caught:
            asyncio.run(algorithm.run(TASKS))
        assert not isinstance(caught.value, ConfigError)
        return str(caught.value)

    assert "no store: run it through `Trainer.fit`, or call `set_store`" in complaint()
    algorithm.set_store(store := agl.InMemoryLightningStore())
    assert "no llm_proxy" in complaint()
    algorithm.set_llm_proxy(agl.LLMProxy(store=store))
    assert "no adapter" in complaint()
    with pytest.warns(DeprecationWarning, match="use the trainer's store"):
        assert algorithm.get_client() is store


def test_weights_that_diverged_are_not_saved(model: Path, tmp_path: Path) -> None:
    changes = {"actor_rollout_ref.actor.optim.lr": 1e30, "trainer.total_training_steps": 3, "trainer.save_freq": -1}
    with pytest.raises(TrainingError, match=r"diverged; lower `actor_rollout_ref\.actor\.optim\.lr`"):
        run(letters_agent, model, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "checkpoints").exists()
