"""Checkpoints: everything comes back, half a checkpoint is none, and another model's is refused."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import agentlightning as agl
from agentlightning.inference.loading import load_model
from agentlightning.learner.checkpoint import TRACKER, latest_checkpoint, load_checkpoint, save_checkpoint
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.objectives import CrossEntropy
from agentlightning.learner.schedule import Schedule
from agentlightning.types import ModelError

from .test_learner import make_rows

SHAPE = {"num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 64}


def learner_of(path):
    loaded = load_model(path)
    optimizer = OptimizerConfig(lr=1e-2)
    return Learner(loaded.model, optimizer=optimizer, schedule=Schedule(10, 2, "cosine"), threads=1), loaded.tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return agl.tiny_model(tmp_path_factory.mktemp("ck") / "tiny", ["a few words"], hidden_size=32, **SHAPE)


def steps(learner, n):
    metrics = []
    for seed in range(n):
        metrics.append(learner.update(make_rows(seed), CrossEntropy()))
        learner.advance()
    return metrics


def test_a_restored_learner_goes_on_exactly(model, tmp_path):
    one, tokenizer = learner_of(model)
    steps(one, 3)
    save_checkpoint(tmp_path, 3, one, tokenizer, {"note": "mine"})
    wanted = steps(one, 2)

    other, _ = learner_of(model)
    state = load_checkpoint(latest_checkpoint(tmp_path), other)
    assert state == {"note": "mine", "step": 3}
    assert other.steps == 3
    assert steps(other, 2) == wanted
    for a, b in zip(one.parameters.values(), other.parameters.values(), strict=True):
        assert torch.equal(a, b)


def test_loading_writes_into_the_same_parameters(model, tmp_path):
    """The engine holds on to them."""
    learner, tokenizer = learner_of(model)
    save_checkpoint(tmp_path, 1, learner, tokenizer, {})
    pointers = [p.data_ptr() for p in learner.model.parameters()]
    steps(learner, 1)
    load_checkpoint(latest_checkpoint(tmp_path), learner)
    assert [p.data_ptr() for p in learner.model.parameters()] == pointers


def test_retention_keeps_the_newest(model, tmp_path):
    learner, tokenizer = learner_of(model)
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, learner, tokenizer, {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["global_step_10", "global_step_2"]
    AutoModelForCausalLM.from_pretrained(latest_checkpoint(tmp_path) / "actor" / "huggingface")


def test_going_back_gives_up_the_later_checkpoints_and_never_the_new_one(model, tmp_path):
    learner, tokenizer = learner_of(model)
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step, learner, tokenizer, {}, keep=3)
    save_checkpoint(tmp_path, 15, learner, tokenizer, {}, keep=3)  # after a resume from step 10
    assert latest_checkpoint(tmp_path).name == "global_step_15"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["global_step_10", "global_step_15"]


def test_a_kill_during_a_save_leaves_the_last_good_one(model, tmp_path):
    learner, tokenizer = learner_of(model)
    good = save_checkpoint(tmp_path, 1, learner, tokenizer, {})
    shutil.copytree(good, tmp_path / ".partial_global_step_2")  # what a kill before the rename leaves
    (tmp_path / ".partial_global_step_2" / "data.json").unlink()
    shutil.copytree(good, tmp_path / "global_step_3")  # and before the tracker
    assert latest_checkpoint(tmp_path) == good
    save_checkpoint(tmp_path, 2, learner, tokenizer, {})
    assert latest_checkpoint(tmp_path).name == "global_step_2"
    assert not (tmp_path / ".partial_global_step_2").exists()


def test_nothing_saved_is_none_and_a_lost_one_is_named(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / TRACKER).write_text("7")
    with pytest.raises(ModelError, match="global_step_7"):
        latest_checkpoint(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(model, tmp_path):
    learner, tokenizer = learner_of(model)
    steps(learner, 1)
    path = save_checkpoint(tmp_path / "ck", 1, learner, tokenizer, {})
    wide, _ = learner_of(agl.tiny_model(tmp_path / "wide", ["a few words"], hidden_size=64, **SHAPE))
    with pytest.raises(ModelError, match="another model"):
        load_checkpoint(path, wide)


@pytest.mark.parametrize("lost", ["data.json", "actor/optim.safetensors", "actor/huggingface/model.safetensors"])
def test_a_damaged_checkpoint_is_one_error(model, tmp_path, lost):
    learner, tokenizer = learner_of(model)
    path = save_checkpoint(tmp_path, 1, learner, tokenizer, {})
    (path / lost).unlink()
    with pytest.raises(ModelError, match="can't be read"):
        load_checkpoint(path, learner)


def test_a_directory_that_cannot_be_written_is_one_error(model, tmp_path):
    learner, tokenizer = learner_of(model)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="can't write the checkpoint of step 1"):
        save_checkpoint(tmp_path / "file", 1, learner, tokenizer, {})
