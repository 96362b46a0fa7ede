"""Checkpoints: everything comes back, half a checkpoint is none, and another model's is refused."""

import copy
import io
import os
import random
import shutil

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import agentlightning as agl
from agentlightning.inference.loading import load_model
from agentlightning.learner import parts as parts_module
from agentlightning.learner.checkpoint import (
    TRACKER,
    CriticPart,
    LearnerPart,
    ReferencePart,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from agentlightning.learner.lora import add_lora, shared_copy
from agentlightning.learner.reference import Reference
from agentlightning.types import ModelError

from .parts import critic_of, learner_of, make_learner, steps

SHAPE = {"num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return agl.tiny_model(tmp_path_factory.mktemp("ck") / "tiny", ["a few words"], hidden_size=32, **SHAPE)


def lora(model):
    return add_lora(model, rank=3, alpha=6, seed=0)


def actor_of(path, adapt=None):
    learner, tokenizer = learner_of(path, adapt)
    return learner, {"actor": LearnerPart(learner, tokenizer)}


def assert_same(one, other):
    assert one.parameters.keys() == other.parameters.keys()
    for name, parameter in one.parameters.items():
        assert torch.equal(parameter, other.parameters[name]), name
    assert one.steps == other.steps


@torch.no_grad()
def logits(model):
    return model(torch.arange(12)[None] * 3, use_cache=False).logits


@pytest.mark.parametrize("adapt", [None, lora])
def test_a_restored_learner_goes_on_exactly(model, tmp_path, adapt):
    one, parts = actor_of(model, adapt)
    steps(one, 3)
    save_checkpoint(tmp_path, 3, parts, {"note": "mine"})
    wanted = steps(one, 2, first=3)

    other, parts = actor_of(model, adapt)
    state = load_checkpoint(latest_checkpoint(tmp_path), parts)
    assert state == {"note": "mine", "step": 3}
    assert other.steps == 3
    assert steps(other, 2, first=3) == wanted
    assert_same(one, other)


@pytest.mark.parametrize("adapt", [None, lora])
def test_loading_writes_into_the_same_parameters(model, tmp_path, adapt):
    """The engine holds on to them."""
    learner, parts = actor_of(model, adapt)
    steps(learner, 1)
    save_checkpoint(tmp_path, 1, parts, {})
    saved = logits(learner.model)
    pointers = [p.data_ptr() for p in learner.model.parameters()]
    steps(learner, 2, first=1)
    assert not torch.equal(logits(learner.model), saved)
    load_checkpoint(latest_checkpoint(tmp_path), parts)
    assert torch.equal(logits(learner.model), saved)
    assert [p.data_ptr() for p in learner.model.parameters()] == pointers


@pytest.mark.parametrize("adapt", [None, lora])
def test_anybody_loads_the_weights(model, tmp_path, adapt):
    learner, parts = actor_of(model, adapt)
    steps(learner, 3)
    folder = save_checkpoint(tmp_path, 3, parts, {}) / "actor"
    plain = AutoModelForCausalLM.from_pretrained(folder / "huggingface")
    torch.testing.assert_close(logits(plain), logits(learner.model), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(load_model(folder.parent).model), logits(learner.model), rtol=0, atol=1e-5)
    assert (logits(plain) - logits(load_model(model).model)).abs().max() > 0.05
    assert (folder / "lora_adapter").is_dir() == (adapt is not None)
    if adapt is not None:
        wrapped = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder / "lora_adapter")
        torch.testing.assert_close(logits(wrapped), logits(learner.model), rtol=0, atol=1e-6)


@pytest.mark.parametrize("adapt", [None, lora])
def test_a_critic_goes_on_exactly(model, tmp_path, adapt):
    one, tokenizer = critic_of(model, adapt)
    steps(one, 3)
    folder = save_checkpoint(tmp_path, 3, {"critic": CriticPart(one, tokenizer)}, {}) / "critic"
    wanted = steps(one, 2, first=3)
    assert (folder / "value_head.safetensors").is_file()
    assert (folder / "huggingface").is_dir() == (adapt is None), "a shared base is the policy's to save"

    other, tokenizer = critic_of(model, adapt)
    load_checkpoint(latest_checkpoint(tmp_path), {"critic": CriticPart(other, tokenizer)})
    assert steps(other, 2, first=3) == wanted
    assert_same(one, other)


def two_policies(model):
    """A planner with an adapter, a worker with all its weights, and a critic of the planner's on the same base."""
    loaded = load_model(model)
    base = loaded.model
    planner, critic = make_learner(lora(shared_copy(base))), critic_of(model, lora, shared_copy(base))[0]
    worker = learner_of(model)[0]
    parts = {
        "planner/actor": LearnerPart(planner, loaded.tokenizer),
        "planner/critic": CriticPart(critic, loaded.tokenizer),
        "worker/actor": LearnerPart(worker, loaded.tokenizer),
    }
    return [planner, critic, worker], parts


def test_two_policies_and_a_critic_go_on_exactly(model, tmp_path):
    learners, parts = two_policies(model)
    for at, learner in enumerate(learners):
        steps(learner, 2, first=10 * at)
    path = save_checkpoint(tmp_path, 2, parts, {"cursor": [1, 2]})
    assert sorted(folder.name for folder in path.iterdir() if folder.is_dir()) == ["planner", "worker"]
    wanted = [steps(learner, 2, first=5) for learner in learners]
    others, parts = two_policies(model)
    assert load_checkpoint(path, parts) == {"cursor": [1, 2], "step": 2}
    assert [steps(learner, 2, first=5) for learner in others] == wanted
    for one, other in zip(learners, others, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("adapt", [None, lora])
def test_a_synced_reference_comes_back_and_its_base_stays(model, tmp_path, adapt):
    learner, _ = learner_of(model, adapt)
    reference = Reference.copy_of(learner.model)
    unsynced = save_checkpoint(tmp_path, 1, {"reference": ReferencePart(reference)}, {})
    steps(learner, 3)
    reference.sync(learner.model)
    synced = save_checkpoint(tmp_path, 2, {"reference": ReferencePart(reference)}, {})
    wanted = logits(reference.model)

    base = load_model(model).model
    initial = logits(base)
    tree = copy.deepcopy(base) if adapt is None else adapt(shared_copy(base))
    other = Reference(tree)
    load_checkpoint(unsynced, {"reference": ReferencePart(other)})
    assert torch.equal(logits(other.model), initial)
    load_checkpoint(synced, {"reference": ReferencePart(other)})
    assert torch.equal(logits(other.model), wanted)
    assert not torch.equal(wanted, initial)
    assert torch.equal(logits(base), initial)


def test_a_model_in_half_precision_goes_on_exactly(model, tmp_path):
    """Its optimizer steps fp32 copies, which the weights alone don't tell."""

    def half(path):
        loaded = load_model(path, dtype="bfloat16")
        learner = make_learner(loaded.model)
        return learner, {"actor": LearnerPart(learner, loaded.tokenizer)}

    one, parts = half(model)
    steps(one, 3)
    path = save_checkpoint(tmp_path, 3, parts, {})
    wanted = steps(one, 3, first=3)
    other, parts = half(model)
    load_checkpoint(path, parts)
    assert other.masters
    assert steps(other, 3, first=3) == wanted
    assert_same(one, other)


def test_the_random_state_comes_back(model, tmp_path):
    _, parts = actor_of(model)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    random.gauss(0, 1), np.random.normal(), torch.randn(1)  # both hold a second number back
    path = save_checkpoint(tmp_path, 1, parts, {})

    def draw():
        return [random.gauss(0, 1), random.random(), np.random.normal(), np.random.random(), torch.randn(3).tolist()]

    wanted = draw()
    assert draw() != wanted
    load_checkpoint(path, parts)
    assert draw() == wanted


def test_an_optimizer_with_plain_numbers_and_other_shapes_comes_back(model, tmp_path):
    """RAdam keeps tensors, Adafactor rows and columns; a run with another optimizer is refused."""

    def with_optimizer(kind):
        learner, tokenizer = learner_of(model)
        learner.optimizer = kind(list(learner.parameters.values()), lr=1e-3)
        return learner, {"actor": LearnerPart(learner, tokenizer)}

    for kind in (torch.optim.Adafactor, torch.optim.NAdam, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)):
        one, parts = with_optimizer(kind)
        steps(one, 2)
        path = save_checkpoint(tmp_path / "ck", 2, parts, {})
        wanted = steps(one, 2, first=2)
        other, parts = with_optimizer(kind)
        load_checkpoint(path, parts)
        assert steps(other, 2, first=2) == wanted
        assert_same(one, other)
    with pytest.raises(ModelError, match="SGD, this run has AdamW"):
        load_checkpoint(path, actor_of(model)[1])


def test_retention_keeps_the_newest(model, tmp_path):
    _, parts = actor_of(model)
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, parts, {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["global_step_10", "global_step_2"]
    AutoModelForCausalLM.from_pretrained(latest_checkpoint(tmp_path) / "actor" / "huggingface")


def test_going_back_gives_up_the_later_checkpoints_and_never_the_new_one(model, tmp_path):
    _, parts = actor_of(model)
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, step, parts, {}, keep=3)
    save_checkpoint(tmp_path, 15, parts, {}, keep=3)  # after a resume from step 10
    assert latest_checkpoint(tmp_path).name == "global_step_15"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["global_step_10", "global_step_15"]


class Killed(BaseException):
    """What `except Exception` does not see: nothing is cleaned up."""


def kill_at(monkeypatch, number):
    """Die before the `number`th change of the file system; a file that is being written is left half written."""
    seen = [0]

    def count(path):
        seen[0] += 1
        if seen[0] == number:
            if path is not None:
                with real_open(path, "wb") as file:
                    file.write(b"half")
            raise Killed

    def watch(module, name, *, writes):
        real = getattr(module, name)

        def watched(*args, **kwargs):
            count(args[1] if writes else None)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    def opened(file, mode="r", *args, **kwargs):
        if "w" in mode:
            count(file)
        return real_open(file, mode, *args, **kwargs)

    real_open = io.open
    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr("builtins.open", opened)
    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        watch(os, name, writes=False)
    watch(parts_module, "save_file", writes=True)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    return seen


def survives_every_kill(monkeypatch, directory, first, second):
    """Kill `second` at each of its changes in turn; what `first` saved, or `second` whole, must be there."""
    number = 0
    while True:
        number += 1
        shutil.rmtree(directory, ignore_errors=True)
        first(directory)
        with monkeypatch.context() as patch:
            seen = kill_at(patch, number)
            try:
                second(directory)
            except Killed:
                pass
            else:
                assert seen[0] < number
                return number - 1
        yield latest_checkpoint(directory)


@pytest.mark.parametrize("adapt", [None, lora])
def test_a_kill_at_any_change_of_the_file_system_leaves_a_whole_checkpoint(model, tmp_path, monkeypatch, adapt):
    one, parts = actor_of(model, adapt)
    steps(one, 1)
    expected = {1: logits(one.model)}
    save_checkpoint(tmp_path / "a", 1, parts, {})
    steps(one, 1, first=1)
    expected[2] = logits(one.model)
    after = load_checkpoint  # the learner is at step 2; each try saves it as that
    again, parts_again = actor_of(model, adapt)
    directory, found = tmp_path / "b", []
    for path in survives_every_kill(
        monkeypatch,
        directory,
        lambda directory: shutil.copytree(tmp_path / "a", directory),
        lambda directory: save_checkpoint(directory, 2, parts, {}, keep=1),
    ):
        step = after(path, parts_again)["step"]
        assert torch.equal(logits(again.model), expected[step])
        found.append(step)
    assert found[0] == 1
    assert found[-1] == 2
    assert found == sorted(found)
    assert len(found) > 15
    save_checkpoint(directory, 2, parts, {}, keep=1)
    assert sorted(path.name for path in directory.iterdir()) == ["global_step_2", TRACKER], "no rubbish is left"


def test_a_kill_while_a_checkpoint_is_written_anew_leaves_the_old_or_the_new_one(model, tmp_path, monkeypatch):
    """After going back to an earlier step, the step that the tracker names is saved again."""
    one, parts = actor_of(model)
    save_checkpoint(tmp_path / "a", 2, parts, {"which": "old"})
    found = [
        load_checkpoint(path, parts)["which"]
        for path in survives_every_kill(
            monkeypatch,
            tmp_path / "b",
            lambda directory: shutil.copytree(tmp_path / "a", directory),
            lambda directory: save_checkpoint(directory, 2, parts, {"which": "new"}),
        )
    ]
    assert found == sorted(found, reverse=True)
    assert {*found} == {"old", "new"}
    assert one.steps == 0


def test_a_rename_that_the_file_system_refuses_leaves_the_old_checkpoint(model, tmp_path, monkeypatch):
    _, parts = actor_of(model)
    save_checkpoint(tmp_path, 2, parts, {"which": "old"})
    real = os.rename

    def refuse(source, target):
        if str(source).endswith(".partial_global_step_2"):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(ModelError, match=r"step 2 .*No space left on device.*The last good one is kept"):
            save_checkpoint(tmp_path, 2, parts, {"which": "new"})
    assert load_checkpoint(latest_checkpoint(tmp_path), parts)["which"] == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step_2", TRACKER]


def test_a_kill_between_the_rename_and_the_tracker_is_not_yet_a_checkpoint(model, tmp_path):
    _, parts = actor_of(model)
    good = save_checkpoint(tmp_path, 1, parts, {})
    shutil.copytree(good, tmp_path / "global_step_3")
    assert latest_checkpoint(tmp_path) == good
    save_checkpoint(tmp_path, 3, parts, {"note": "whole"})
    assert load_checkpoint(latest_checkpoint(tmp_path), parts) == {"note": "whole", "step": 3}


def test_nothing_saved_is_none_and_a_lost_one_is_named(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / TRACKER).write_text("7")
    with pytest.raises(ModelError, match="global_step_7"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("adapt", [None, lora])
def test_a_checkpoint_of_another_model_is_refused(model, tmp_path, adapt):
    learner, parts = actor_of(model, adapt)
    steps(learner, 1)
    path = save_checkpoint(tmp_path / "ck", 1, parts, {})
    _, wide = actor_of(agl.tiny_model(tmp_path / "wide", ["a few words"], hidden_size=64, **SHAPE), adapt)
    with pytest.raises(ModelError, match=r"another (model|base)"):
        load_checkpoint(path, wide)


def test_an_adapter_on_another_base_of_the_same_shape_is_refused(model, tmp_path):
    _, parts = actor_of(model, lora)
    path = save_checkpoint(tmp_path / "ck", 1, parts, {})
    _, other = actor_of(agl.tiny_model(tmp_path / "other", ["a few words"], hidden_size=32, seed=1, **SHAPE), lora)
    with pytest.raises(ModelError, match="another base"):
        load_checkpoint(path, other)


def test_a_resumed_run_must_train_the_same_kind_of_weights(model, tmp_path):
    _, full = actor_of(model)
    _, adapter = actor_of(model, lora)
    with pytest.raises(ModelError, match=r"trains all weights, this one trains a LoRA adapter"):
        load_checkpoint(save_checkpoint(tmp_path / "full", 1, full, {}), adapter)
    with pytest.raises(ModelError, match=r"trains a LoRA adapter, this one trains all weights"):
        load_checkpoint(save_checkpoint(tmp_path / "lora", 1, adapter, {}), full)
    _, wider = actor_of(model, lambda model: add_lora(model, rank=4, alpha=6, seed=0))
    with pytest.raises(ModelError, match=r"`r` 3, this run 4"):
        load_checkpoint(tmp_path / "lora" / "global_step_1", wider)


def test_a_part_that_was_not_saved_is_named(model, tmp_path):
    learner, parts = actor_of(model)
    path = save_checkpoint(tmp_path, 1, parts, {})
    with pytest.raises(ModelError, match="no `planner/actor`"):
        load_checkpoint(path, {"planner/actor": LearnerPart(learner, None)})


FILES = ["data.json", "rng.json", "actor/optim.safetensors", "actor/extra_state.json"]


@pytest.mark.parametrize("harm", ["lost", "cut", "other"])
@pytest.mark.parametrize(
    ("adapt", "file"),
    [
        *((None, file) for file in [*FILES, "actor/huggingface/model.safetensors", "actor/huggingface/config.json"]),
        *((lora, f"actor/lora_adapter/adapter_{name}") for name in ("model.safetensors", "config.json")),
    ],
)
def test_a_damaged_checkpoint_is_one_error(model, tmp_path, adapt, file, harm):
    learner, parts = actor_of(model, adapt)
    steps(learner, 1)
    path = save_checkpoint(tmp_path, 1, parts, {})
    if harm == "lost":
        (path / file).unlink()
    elif harm == "cut":
        (path / file).write_bytes((path / file).read_bytes()[:-7])
    else:
        (path / file).write_bytes(b"[]")
    with pytest.raises(ModelError) as caught:
        load_checkpoint(path, parts)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_that_cannot_be_written_is_one_error(model, tmp_path):
    _, parts = actor_of(model)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="can't write the checkpoint of step 1"):
        save_checkpoint(tmp_path / "file", 1, parts, {})


def test_nothing_is_pickled(model, tmp_path):
    learner, parts = actor_of(model, lora)
    steps(learner, 1)
    path = save_checkpoint(tmp_path, 1, parts, {})
    kinds = {file.suffix for file in path.rglob("*") if file.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja", ".txt", ".md"}
    state = load_file(path / "actor" / "optim.safetensors")
    assert {name.rsplit("/", 1)[1] for name in state} == {"step", "exp_avg", "exp_avg_sq"}
