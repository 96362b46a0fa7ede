"""Keys without a field: quiet at verl's default, else in the table at start, or refused if the maths would change."""

from typing import Any

import pytest
import torch

from agentlightning.types import ConfigError
from agentlightning.verl.config import load_config
from agentlightning.verl.config.differences import DIFFERENCES
from agentlightning.verl.config.names import fields, verl_defaults
from agentlightning.verl.config.overrides import canonical
from agentlightning.verl.config.rules import find_rule

from .configs import SEED_001

BASE: dict[str, Any] = {
    "actor_rollout_ref.model.path": "some/model",
    "actor_rollout_ref.rollout.n": 8,
    "algorithm.adv_estimator": "grpo",
}
ANSWERED = [key for key in verl_defaults() if key not in fields() and canonical(key) == key]
"""verl's keys that rules answer."""


def test_verls_own_defaults_are_quiet():
    resolved = load_config({key: verl_defaults()[key] for key in ANSWERED}, base=BASE)
    assert len(ANSWERED) > 600
    # But for those whose default here is another: `bfloat16`, 8 GPUs.
    assert {note.key for note in resolved.notes} == {d.key for d in DIFFERENCES}.intersection(ANSWERED)


def test_any_other_value_is_answered_or_refused():
    refused = [key for key in ANSWERED if find_rule(key).kind == "refused"]
    answered = [key for key in ANSWERED if key not in refused]
    assert len(refused) > 30
    with pytest.raises(ConfigError) as caught:
        load_config({key: f"not {key}" for key in refused}, base=BASE)
    assert [line.split("`")[1] for line in str(caught.value).splitlines()[1:]] == refused
    notes = load_config({key: f"not {key}" for key in answered}, base=BASE).notes
    assert {(note.key, note.value) for note in notes} == {(key, f"not {key}") for key in answered}
    assert len(notes) == len(answered)


@pytest.mark.parametrize(
    "word",
    [
        "algorithm.adv_estimator=grp",
        "algorithm.kl_penalty=full",
        "algorithm.dpo_loss_type=hinge",
        "algorithm.rollout_correction.rollout_is=turn",
        "actor_rollout_ref.actor.policy_loss.loss_mode=ppo",
        "actor_rollout_ref.actor.loss_agg_mode=mean",
        "actor_rollout_ref.actor.kl_loss_type=full",
        "actor_rollout_ref.actor.optim.zero_indexed_step=false",
        "actor_rollout_ref.actor.checkpoint.load_contents=[model]",
        "actor_rollout_ref.model.external_lib=my_models",
        "actor_rollout_ref.model.lora.rank=8",
        "actor_rollout_ref.rollout.do_sample=false",
        "actor_rollout_ref.rollout.ignore_eos=true",
        "actor_rollout_ref.rollout.logprobs_mode=raw_logprobs",
        "critic.optim.lr_scheduler_type=linear",
        "critic.model.hf_config_path=config.json",
        "distillation.enabled=true",
        "data.truncation=end",
        "data.sampler.class_path=sampler.py",
        "data.apply_chat_template_kwargs.enable_thinking=false",
        "reward.reward_manager.name=prime",
        "reward.reward_manager.source=importlib",
        "reward.reward_model.enable=true",
        "reward.sandbox_fusion.url='http://localhost'",
        "trainer.v1.trainer_mode=separate_async",
    ],
)
def test_what_would_change_the_result_and_is_not_here_is_refused(word: str):
    with pytest.raises(ConfigError) as caught:
        load_config([word], base=BASE)
    key, _, _ = word.lstrip("+").partition("=")
    message = str(caught.value)
    assert message.startswith(f"`{key}` is ")
    assert "\n" not in message
    assert ";" in message, "what is wrong; what to do"


def test_values_that_say_what_happens_anyway_are_quiet():
    words = [
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
        "actor_rollout_ref.actor.use_dynamic_bsz=true",
        "actor_rollout_ref.actor.use_torch_compile=false",
        "actor_rollout_ref.rollout.dtype=float32",
        "trainer.n_gpus_per_node=1",
        "reward.reward_manager.name=dapo",
        "actor_rollout_ref.actor.calculate_sum_pi_squared=true",
    ]
    assert load_config(words, base=BASE).notes == []
    assert len(load_config(["actor_rollout_ref.rollout.tensor_model_parallel_size=4"], base=BASE).notes) == 1
    assert len(load_config(["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1"], base=BASE).notes) == 1


def test_strict_refuses_what_is_replaced_but_not_what_has_no_effect():
    with pytest.raises(ConfigError) as caught:
        load_config(SEED_001 | {"agentlightning.strict": True})
    message = str(caught.value)
    assert "`actor_rollout_ref.rollout.name`='vllm'" in message
    assert "agentlightning.strict" in message
    assert "kl_loss_coef" not in message
    resolved = load_config({"critic.optim.lr": 1e-4, "agentlightning.strict": True}, base=BASE)
    assert [note.kind for note in resolved.notes] == ["no_effect"]


def test_loggers_that_are_not_there_are_named():
    (note,) = load_config(["trainer.logger=[console,mlflow,file]"], base=BASE).notes
    assert (note.key, note.value, note.kind) == ("trainer.logger", "mlflow", "replaced")


def test_what_0_3_had_of_its_own_is_answered():
    theirs = {
        "port": 9999,
        "trace_aggregator": {
            "level": "trajectory",
            "trajectory_max_prompt_length": 2048,
            "trajectory_max_response_length": 8192,
            "debug": False,
            "mismatch_log_dir": "./mismatch_cases",
        },
    }
    answers = {note.key: note.instead for note in load_config({**BASE, "agentlightning": theirs}).notes}
    assert "free port" in answers["agentlightning.port"]
    assert "nothing is cut" in answers["agentlightning.trace_aggregator.trajectory_max_prompt_length"]
    assert "agentlightning.trace_aggregator.level" not in answers, "it says what happens anyway"
    other = load_config({**BASE, "agentlightning.trace_aggregator.level": "transition"}).notes
    assert any("one row" in note.instead for note in other)
    with pytest.raises(ConfigError, match=r"trace_aggregator\.levels"):
        load_config({**BASE, "agentlightning.trace_aggregator.levels": "trajectory"})


def test_the_table_at_start(capsys: pytest.CaptureFixture[str]):
    load_config(SEED_001 | {"trainer.device": "cuda"}).print_notes()
    shown = capsys.readouterr().out
    assert "actor_rollout_ref.actor.fsdp_config.param_offload = True" in shown
    assert "actor_rollout_ref.rollout.name = 'vllm'" in shown
    assert ("trainer.device = 'cuda'" in shown) == (not torch.cuda.is_available())
    load_config({}, base=BASE).print_notes()
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_an_answer_and_under_strict_an_error():
    resolved = load_config(["trainer.device=cuda"], base=BASE)
    assert resolved.config.device() == "cpu"
    assert resolved.config.is_deterministic()
    strict = load_config(["trainer.device=cuda", "agentlightning.strict=true"], base=BASE)
    with pytest.raises(ConfigError, match="no GPU found"):
        strict.print_notes()


def test_deterministic_can_be_chosen():
    assert not load_config(["agentlightning.deterministic=false"], base=BASE).config.is_deterministic()
    assert load_config(["agentlightning.deterministic=true"], base=BASE).config.is_deterministic()
