"""The whole way, for real: agent, gateway, engine, store, adapter, learner; and what a crash does to it."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import agentlightning as agl
from agentlightning.adapter import episode_from_spans
from agentlightning.types import ConfigError, DatasetError, ModelError, RunExistsError, TrainingError

from .letters import TASKS, config, letters_agent, make_model, train

ROOT = Path(__file__).parents[2]
TIMES = ("timing_s/", "timing_per_token_ms/", "perf/throughput", "perf/time_per_step")


def metrics_of(run_dir):
    """Metrics by step, times aside."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines]


def in_process(run_dir, model, *flags):
    return subprocess.run(
        [sys.executable, "-m", "tests.e2e.letters", str(run_dir), str(model), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """An uninterrupted run, shared by the tests that look at it."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    return run_dir, train(run_dir, model)


@pytest.mark.learning
def test_reward_rises(finished):
    _, algorithm = finished
    validated = [row["val/reward"] for row in algorithm.history if "val/reward" in row]
    assert len(validated) == 4
    assert validated[-1] >= max(validated[0], 0.9)
    train_rewards = [row["critic/score/mean"] for row in algorithm.history if row["step"] > 0]
    assert np.mean(train_rewards[-3:]) >= np.mean(train_rewards[:3]) + 0.4


def test_every_step_is_recorded_under_verls_names(finished):
    run_dir, algorithm = finished
    rows = metrics_of(run_dir)
    assert [row["step"] for row in rows] == list(range(13))
    assert rows[1]["training/rollout_logprob_gap"] < 1e-5
    for name in (
        "actor/pg_loss",
        "actor/loss",
        "actor/grad_norm",
        "actor/lr",
        "critic/advantages/mean",
        "response_length/mean",
        "num_turns/mean",
    ):
        assert name in rows[1], name
    assert rows[1]["training/n_rollouts"] == 32
    assert rows[1]["training/n_rollouts_failed"] == 0
    assert len(algorithm.history) == 13


def test_the_checkpoint_is_plain_hugging_face_and_differs_from_the_start(finished, model):
    _, algorithm = finished
    path = Path(algorithm.checkpoint) / "actor" / "huggingface"
    trained = AutoModelForCausalLM.from_pretrained(path)
    start = AutoModelForCausalLM.from_pretrained(model)
    assert AutoTokenizer.from_pretrained(path).chat_template
    assert trained.config._attn_implementation != "agl"
    assert max((a - b).abs().max().item() for a, b in zip(trained.parameters(), start.parameters(), strict=True)) > 1e-3


def test_recorded_tokens_are_what_a_fresh_forward_scores(finished, model):
    """Invariant: the log-probs in the store are those of the weights that sampled, for the exact ids."""
    run_dir, _ = finished
    reference = AutoModelForCausalLM.from_pretrained(model)

    async def read():
        store = agl.SqlLightningStore(run_dir / "store.sqlite")
        try:
            rollouts = [r for r in await store.query_rollouts() if r.metadata["step"] == 1 and r.mode == "train"]
            pairs = [(r.rollout_id, r.attempt.attempt_id) for r in rollouts]
            return await store.query_many_spans(pairs)
        finally:
            await store.close()

    episodes = [episode_from_spans(spans, rollout_id) for rollout_id, spans in asyncio.run(read()).items()]
    assert len(episodes) == 32
    for episode in episodes:
        (turn,), (trajectory,) = episode.turns, episode.trajectories
        ids = np.concatenate([turn.call.prompt_ids, turn.call.response_ids])
        assert np.array_equal(trajectory.token_ids, ids)
        with torch.no_grad():
            logprobs = torch.log_softmax(reference(torch.from_numpy(ids.astype(np.int64))[None]).logits[0], -1)
        at = np.arange(len(turn.call.prompt_ids), len(ids))
        expected = logprobs[at - 1, ids[at]].numpy()
        np.testing.assert_allclose(turn.call.logprobs, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("crash_at", [1, 5])
def test_a_killed_and_resumed_run_writes_the_metrics_of_an_uninterrupted_one(crash_at, finished, model, tmp_path):
    """`kill -9` in the middle of a step; steps since the last checkpoint are made again, bit for bit."""
    whole, _ = finished
    crashed = in_process(tmp_path / "run", model, "--crash-at", str(crash_at))
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    resumed = in_process(tmp_path / "run", model, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert metrics_of(tmp_path / "run") == metrics_of(whole)


@pytest.mark.slow
def test_rollouts_of_other_tasks_are_not_taken_for_these(model, tmp_path):
    """The dataset changed while the run lay there: what is in the store under the same numbers is of other tasks."""
    assert in_process(tmp_path / "run", model, "--crash-at", "1").returncode == -signal.SIGKILL
    algorithm = agl.VERL(config(model, **{"trainer.total_training_steps": 1, "trainer.val_before_train": False}))
    others = [{"word": f"other {n}"} for n in range(8)]
    agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=tmp_path / "run").fit(letters_agent, others, resume=True)

    async def read():
        store = agl.SqlLightningStore(tmp_path / "run" / "store.sqlite")
        try:
            return [r.input["word"] for r in await store.query_rollouts(status_in=["succeeded"]) if r.mode == "train"]
        finally:
            await store.close()

    assert sum(word.startswith("other") for word in asyncio.run(read())) == 32


@pytest.mark.slow
def test_rollouts_that_finished_before_the_crash_are_not_run_again(model, tmp_path):
    assert in_process(tmp_path / "run", model, "--crash-at", "2").returncode == -signal.SIGKILL
    assert in_process(tmp_path / "run", model, "--resume").returncode == 0

    async def read():
        store = agl.SqlLightningStore(tmp_path / "run" / "store.sqlite")
        try:
            return list(await store.query_rollouts())
        finally:
            await store.close()

    rollouts = asyncio.run(read())
    succeeded = [r for r in rollouts if r.status == "succeeded"]
    assert len(succeeded) == 12 * 32 + 4 * 8  # each train and validation rollout once
    assert {r.status for r in rollouts} <= {"succeeded", "cancelled"}


@agl.rollout
def always_raises(task, llm):
    raise RuntimeError("the tool is down")


def test_an_agent_that_always_fails_ends_training_with_its_reason(model, tmp_path):
    algorithm = agl.VERL(config(model, **{"trainer.val_before_train": False}))
    trainer = agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=tmp_path / "run")
    with pytest.raises(TrainingError, match=r"32 of 32 rollouts failed.*the tool is down"):
        trainer.fit(always_raises, TASKS)


def test_what_was_learned_until_everything_failed_is_saved_and_gone_on_with(finished, model, tmp_path):
    """The tool goes down in step 3, in a run that saves at its end only; once it works again the run goes on as if
    nothing had been."""
    whole, _ = finished
    down = [True]

    @agl.rollout
    def needs_a_tool(task, llm, rollout):
        if down and rollout.mode == "train" and rollout.metadata["step"] > 2:
            raise RuntimeError("the tool is down")
        return letters_agent(task, llm)

    def fit(**changes):
        algorithm = agl.VERL(config(model, **{"trainer.save_freq": -1, **changes}))
        trainer = agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=tmp_path / "run")
        trainer.fit(needs_a_tool, TASKS, val_dataset=TASKS, resume=(tmp_path / "run").exists())

    with pytest.raises(TrainingError, match="the tool is down"):
        fit(**{"trainer.total_training_steps": 3})
    assert (tmp_path / "run" / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "2"
    down.clear()
    fit(**{"trainer.total_training_steps": 4})
    assert metrics_of(tmp_path / "run") == metrics_of(whole)[:5]


@agl.rollout
def sometimes_raises(task, llm):
    letters_agent(task, llm)
    if task["word"] == "cat":
        raise RuntimeError("no cats")
    return 1.0


def test_failed_rollouts_are_counted_and_training_goes_on(model, tmp_path):
    algorithm = agl.VERL(config(model, **{"trainer.total_training_steps": 2, "data.train_batch_size": 8}))
    agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=tmp_path / "run").fit(sometimes_raises, TASKS)
    for row in algorithm.history:
        assert row["training/n_rollouts_failed"] == 8
        assert row["training/n_groups_dropped"] == 0  # the model was called, so the failure is the policy's
        assert row["critic/score/mean"] == pytest.approx(7 / 8)


@agl.rollout
def long_prompt(task, llm):
    return letters_agent({"word": "cat " * 200}, llm)


def test_a_prompt_longer_than_the_context_is_a_counted_failure_that_names_both_numbers(model, tmp_path):
    algorithm = agl.VERL(config(model, **{"trainer.val_before_train": False}))
    trainer = agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=tmp_path / "run")
    with pytest.raises(TrainingError, match=r"the limit is 60.*data.max_prompt_length"):
        trainer.fit(long_prompt, TASKS)


@agl.rollout
def forgets_the_reward(task, llm):
    letters_agent(task, llm)


def test_an_agent_without_a_reward_ends_training_with_advice(model, tmp_path):
    algorithm = agl.VERL(config(model, **{"trainer.val_before_train": False}))
    trainer = agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=tmp_path / "run")
    with pytest.raises(TrainingError, match="no rollout has a reward; return a number"):
        trainer.fit(forgets_the_reward, TASKS)


@agl.rollout
def calls_nobody(task, llm):
    return 1.0


def test_one_step_in_which_nothing_could_be_learned_is_an_error_too(model, tmp_path):
    algorithm = agl.VERL(config(model, **{"trainer.total_training_steps": 1, "trainer.val_before_train": False}))
    trainer = agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=tmp_path / "run")
    with pytest.raises(TrainingError, match="no rollout called the LLM"):
        trainer.fit(calls_nobody, TASKS)


def test_an_adapter_that_leaves_out_every_call_is_named(model, tmp_path):
    algorithm = agl.VERL(config(model, **{"trainer.total_training_steps": 1, "trainer.val_before_train": False}))
    trainer = agl.Trainer(
        algorithm=algorithm, n_runners=8, run_dir=tmp_path / "run", adapter={"agent_match": "nobody is called so"}
    )
    with pytest.raises(TrainingError, match="the adapter left out every call"):
        trainer.fit(letters_agent, TASKS)


def test_a_resumed_run_must_have_the_settings_it_was_begun_with(finished, model):
    run_dir, _ = finished
    with pytest.raises(ConfigError, match=r"`actor_rollout_ref.actor.optim.lr` = 0.005, and now it is 1.0"):
        train(run_dir, model, resume=True, **{"actor_rollout_ref.actor.optim.lr": 1.0})
    assert train(run_dir, model, resume=True, **{"trainer.save_freq": 7}).history[-1]["step"] == 12


def test_a_checkpoint_is_validated_without_training(finished, model, tmp_path):
    _, algorithm = finished
    path = {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": algorithm.checkpoint}
    only = train(tmp_path / "run", model, **{"trainer.val_only": True, **path})
    (row,) = only.history
    assert row["val/reward"] == algorithm.history[-1]["val/reward"]


def test_checkpoints_of_another_run_are_not_written_into(finished, model, tmp_path):
    _, algorithm = finished
    with pytest.raises(RunExistsError, match="checkpoints of another run"):
        train(tmp_path / "run", model, **{"trainer.default_local_dir": str(Path(algorithm.checkpoint).parent)})


def test_training_without_training_tasks_says_so(model, tmp_path):
    trainer = agl.Trainer(algorithm=agl.VERL(config(model)), run_dir=tmp_path / "run")
    with pytest.raises(DatasetError, match="no `train_dataset`"):
        trainer.fit(letters_agent, val_dataset=TASKS)
    assert not (tmp_path / "run").exists()


def test_triplets_of_an_adapter_train_as_the_token_graph_does(finished, model, tmp_path):
    """A user's adapter on the training path; with all calls in its triplets, the weights must come out the same."""
    whole, _ = finished
    changes = {"trainer.total_training_steps": 3}
    algorithm = agl.VERL(config(model, **changes), adapter=agl.TracerTraceToTriplet())
    agl.Trainer(algorithm=algorithm, n_runners=8, run_dir=tmp_path / "run").fit(letters_agent, TASKS, val_dataset=TASKS)
    ours, theirs = metrics_of(tmp_path / "run"), metrics_of(whole)
    names = ("critic/score/mean", "response_length/mean", "training/n_rows")
    assert [[row[name] for name in names] for row in ours[1:]] == [[row[name] for name in names] for row in theirs[1:4]]
    assert [row["actor/loss"] for row in ours[1:3]] == [row["actor/loss"] for row in theirs[1:3]]


def test_an_adapter_that_training_cannot_use_is_refused(model, tmp_path):
    algorithm = agl.VERL(config(model, **{"trainer.val_before_train": False}))
    trainer = agl.Trainer(algorithm=algorithm, adapter=agl.TraceToMessages(), run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"`adapter` \(TraceToMessages\) returned a list"):
        trainer.fit(letters_agent, TASKS)


def test_a_wrong_model_path_is_one_error_and_leaves_no_run(tmp_path):
    trainer = agl.Trainer(algorithm=agl.VERL(config(tmp_path / "nowhere")), run_dir=tmp_path / "run")
    with pytest.raises(ModelError, match="nowhere"):
        trainer.fit(letters_agent, TASKS)
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_is_refused_with_its_neighbour(model):
    with pytest.raises(ConfigError, match="train_batch_size"):
        agl.VERL({**config(model), "data.train_batchsize": 4})


def test_disk_full_at_checkpoint_time_keeps_the_last_good_one(tmp_path):
    """A file size limit below the size of the weights stands in for a full disk: the write fails the same way. The
    store of so short a run stays below it (its log is at most 4 MiB), so that nothing else fails first."""
    model = make_model(tmp_path / "wide", hidden_size=256, intermediate_size=1024)
    limit = (model / "model.safetensors").stat().st_size - 1_000_000
    assert limit > 6_000_000
    script = f"""
import resource, signal
from pathlib import Path
from tests.e2e.letters import train
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
train(Path({str(tmp_path / "run")!r}), Path({str(model)!r}), **{{"trainer.total_training_steps": 3}})
from agentlightning.learner import checkpoint
real = checkpoint.save_checkpoint
import agentlightning.verl.resume as checkpoints
def limited(*args, **kwargs):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
    try:
        return real(*args, **kwargs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoints.save_checkpoint = limited
train(Path({str(tmp_path / "run")!r}), Path({str(model)!r}), resume=True, **{{"trainer.total_training_steps": 6}})
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert result.returncode == 1
    assert "can't write the checkpoint of step 6" in result.stderr
    assert "The last good one is kept" in result.stderr
    checkpoints = tmp_path / "run" / "checkpoints"
    assert (checkpoints / "latest_checkpointed_iteration.txt").read_text() == "3"
    assert sorted(p.name for p in checkpoints.iterdir() if p.is_dir()) == ["global_step_3"]
    AutoModelForCausalLM.from_pretrained(checkpoints / "global_step_3" / "actor" / "huggingface")
    resumed = in_process(tmp_path / "run", model, "--resume")
    assert resumed.returncode == 0, resumed.stderr
