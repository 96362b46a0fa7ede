"""From overrides to a configuration: ways of writing, aliases, implied values, checks, one line for each problem."""

import copy
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from agentlightning.learner.advantages import _ESTIMATORS, register_adv_est
from agentlightning.types import ConfigError
from agentlightning.verl.config import ResolvedConfig, load_config, parse_overrides

from .configs import SEED_000, SEED_001

MODEL: dict[str, Any] = {"actor_rollout_ref.model.path": "some/model"}


def load(*words: str, **sections: Any) -> ResolvedConfig:
    return load_config(list(words) or sections, base=MODEL)


def error_of(*words: str, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*words, **sections)
    return str(caught.value)


def kinds(resolved: ResolvedConfig) -> dict[str, str]:
    return {note.key: note.kind for note in resolved.notes}


def test_seed_001_loads_word_for_word():
    before = copy.deepcopy(SEED_001)
    resolved = load_config(SEED_001)
    assert before == SEED_001
    config = resolved.config
    assert config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-1.5B-Instruct"
    assert config.actor_rollout_ref.rollout.name == "native"
    assert config.actor_rollout_ref.rollout.n == 4
    assert config.actor_rollout_ref.actor.clip_ratio_high == 0.3
    assert config.trainer.logger == ["console", "wandb"]
    notes = kinds(resolved)
    notes.pop("trainer.logger", None)  # whether W&B is installed
    assert notes == {
        "actor_rollout_ref.rollout.name": "replaced",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": "replaced",
        "actor_rollout_ref.rollout.gpu_memory_utilization": "replaced",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": "replaced",
        "actor_rollout_ref.actor.kl_loss_coef": "no_effect",
        "actor_rollout_ref.actor.fsdp_config.param_offload": "replaced",
        "actor_rollout_ref.actor.fsdp_config.optimizer_offload": "replaced",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": "no_effect",
        "actor_rollout_ref.ref.fsdp_config.param_offload": "no_effect",
    }
    assert all(note.instead for note in resolved.notes)


def test_seed_000_loads_word_for_word():
    resolved = load_config(SEED_000)
    assert resolved.config.actor_rollout_ref.model.path == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert resolved.config.data.gen_batch_size == 4
    assert resolved.config.data.train_batch_size == 8
    assert resolved.config.actor_rollout_ref.actor.ppo_mini_batch_size == 8
    assert kinds(resolved)["main_llm.model"] == "info"


def test_command_line_and_mapping_give_the_same():
    words = [
        "actor_rollout_ref.model.path=some/model",
        "actor_rollout_ref.actor.optim.lr=3e-4",
        "actor_rollout_ref.actor.optim.betas=[0.9,0.95]",
        "data.train_files=[a.jsonl,'b c.jsonl']",
        "data.gen_batch_size=null",
        "data.shuffle=False",
        "trainer.logger=[console,file]",
        "trainer.experiment_name='2026'",
        "+ray_kwargs.ray_init.num_gpus=1",
        "++actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    ]
    tree = {
        "actor_rollout_ref": {
            "model": {"path": "some/model", "override_config": {"attn_implementation": "sdpa"}},
            "actor": {"optim": {"lr": 3e-4, "betas": [0.9, 0.95]}},
        },
        "data": {"train_files": ["a.jsonl", "b c.jsonl"], "gen_batch_size": None, "shuffle": False},
        "trainer.logger": ["console", "file"],
        "trainer": {"experiment_name": "2026"},
        "ray_kwargs": {"ray_init": {"num_gpus": 1}},
    }
    from_words, from_tree, from_omegaconf = load_config(words), load_config(tree), load_config(OmegaConf.create(tree))
    assert from_words.config == from_tree.config == from_omegaconf.config
    assert from_words.given == from_tree.given
    assert sorted(map(str, from_words.notes)) == sorted(map(str, from_tree.notes))
    assert from_words.config.actor_rollout_ref.actor.optim.betas == (0.9, 0.95)
    assert kinds(from_words)["ray_kwargs.ray_init.num_gpus"] == "replaced"


def test_overrides_go_over_the_base():
    base = {"data": {"train_batch_size": 64}, "main_llm.model": "base", "actor_rollout_ref.actor.clip_ratio_high": 0.28}
    resolved = load_config(["train_batch_size=16", "actor_rollout_ref.actor.clip_ratio=0.1"], base=base)
    assert resolved.config.data.train_batch_size == 16
    assert resolved.config.actor_rollout_ref.model.path == "base"
    assert resolved.config.actor_rollout_ref.actor.clip_ratio_high == 0.1
    assert resolved.given["data.train_batch_size"] == 16


def test_parse_overrides_gives_values_of_their_types():
    words = ["train_batch_size=16", "actor_rollout_ref.actor.optim.lr=1e-6", "trainer.val_only=true"]
    assert parse_overrides(words) == {
        "data.train_batch_size": 16,
        "actor_rollout_ref.actor.optim.lr": 1e-6,
        "trainer.val_only": True,
    }


def test_clip_ratio_alone_sets_both_bounds():
    actor = load(actor_rollout_ref={"actor": {"clip_ratio": 0.1}}).config.actor_rollout_ref.actor
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.1, 0.1)
    actor = load(
        actor_rollout_ref={"actor": {"clip_ratio": 0.1, "clip_ratio_high": 0.3}}
    ).config.actor_rollout_ref.actor
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.1, 0.3)
    actor = load(
        actor_rollout_ref={"actor": {"clip_ratio": 0.1, "clip_ratio_low": None}}
    ).config.actor_rollout_ref.actor
    assert actor.clip_ratio_low == 0.1


def test_one_seed_for_all():
    config = load("agentlightning.seed=7", "data.seed=3").config
    assert config.data.seed == 3
    assert config.actor_rollout_ref.rollout.seed == config.actor_rollout_ref.actor.data_loader_seed == 7
    assert load("data.seed=null").config.data.seed == 42


def test_other_spellings():
    actor = load("actor_rollout_ref.actor.optim.clip_grad=0.5").config.actor_rollout_ref.actor
    assert actor.grad_clip == 0.5
    optim = load("actor_rollout_ref.actor.optim.warmup_style=cosine").config.actor_rollout_ref.actor.optim
    assert optim.lr_scheduler_type == "cosine"


def test_interpolations():
    resolved = load(
        "data.max_prompt_length=100",
        "data.max_response_length=28",
        "actor_rollout_ref.rollout.max_num_seqs=${data.max_response_length}",
        "trainer.default_local_dir=out/${trainer.project_name}",
        "actor_rollout_ref.rollout.prompt_length=100",  # verl's default of it is data.max_prompt_length
    )
    assert resolved.config.actor_rollout_ref.rollout.max_num_seqs == 28
    assert resolved.config.trainer.default_local_dir == "out/verl_examples"
    assert "max_prompt_length" in error_of("actor_rollout_ref.rollout.prompt_length=99")
    assert "`actor_rollout_ref.rollout.mtp.enable`" in error_of(
        "data.seed=${data.train_batch_size}", "+actor_rollout_ref.rollout.mtp.enable=true"
    )
    assert "can't be resolved" in error_of("data.train_batch_size=${no.such.key}")


def test_numbers_that_yaml_reads_as_strings():
    optim = load(actor_rollout_ref={"actor": {"optim": {"lr": "1e-6"}}}).config.actor_rollout_ref.actor.optim
    assert optim.lr == 1e-6


def test_registered_estimators_are_accepted():
    assert "possible: 'gae', 'grpo'" in error_of("algorithm.adv_estimator=mine")

    @register_adv_est("mine")
    def mine(token_level_rewards: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return token_level_rewards, token_level_rewards

    try:
        assert load("algorithm.adv_estimator=mine").config.algorithm.adv_estimator == "mine"
    finally:
        del _ESTIMATORS["mine"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["data.train_batchsize=3"],
            ["unknown config key `data.train_batchsize`", "`data.train_batch_size`", "`data`"],
        ),
        (["data.train_batch_size=x"], ["`data.train_batch_size` is 'x'", "integer"]),
        (["data.train_batch_size=0"], ["`data.train_batch_size` is 0", "greater than or equal to 1"]),
        (["data.train_batch_size=8.5"], ["`data.train_batch_size` is 8.5", "integer"]),
        (["data.shuffle=1"], ["`data.shuffle` is 1", "boolean"]),
        (["data.train_files=3"], ["`data.train_files` is 3", "string", "list"]),
        (["trainer.logger=[console,wanb]"], ["`trainer.logger` is 'wanb'", "'wandb'"]),
        (["actor_rollout_ref.actor.optim.betas=[0.9]"], ["`actor_rollout_ref.actor.optim.betas`"]),
        (["actor_rollout_ref.actor.clip_ratio_c=1.0"], ["clip_ratio_c", "greater than 1"]),
        (["actor_rollout_ref.rollout.temperature=0"], ["rollout.temperature", "greater than 0"]),
        (["data=5"], ["`data` is a section"]),
        (["data.seed=1", "data.seed=2"], ["`data.seed` is given twice"]),
        (["main_llm.model=a", "actor_rollout_ref.model.path=b"], ["`main_llm.model`", "two names", "keep one"]),
        (["~data.seed"], ["`~data.seed`", "data.seed=null"]),
        (["data.train_batch_size=8,16"], ["is a sweep"]),
        (["data.train_batch_size"], ["key=value"]),
        (["data.train_files=~/x.jsonl"], ["can't be read", "quotes"]),
        (["a@b=3"], ["`@` has no meaning"]),
    ],
)
def test_errors_name_the_key_and_the_mend(words: list[str], parts: list[str]):
    message = error_of(*words)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_all_problems_at_once():
    message = error_of("algorithm.adv_estimator=rlo", "data.train_batch_size=x", "distillation.enabled=true")
    assert message.startswith("3 problems")
    assert [line.split("`")[1] for line in message.splitlines()[1:]] == [
        "distillation.enabled",
        "algorithm.adv_estimator",
        "data.train_batch_size",
    ]


def test_duplicates_in_a_mapping():
    message = error_of(**{"data": {"train_batch_size": 8}, "data.train_batch_size": 4})
    assert "`data.train_batch_size` is given twice (8 and 4)" in message


def test_a_model_is_needed():
    with pytest.raises(ConfigError, match=r"`actor_rollout_ref\.model\.path` is not set"):
        load_config()


def test_one_string_is_not_a_list_of_words():
    with pytest.raises(ConfigError, match="a list of words"):
        load_config("data.seed=1")


ROLLOUT, ACTOR, LOSS = "actor_rollout_ref.rollout", "actor_rollout_ref.actor", "actor_rollout_ref.actor.policy_loss"
CORRECTION = "algorithm.rollout_correction"
OVERLONG = "reward.reward_kwargs.overlong_buffer_cfg"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["data.train_batch_size=8", f"{ACTOR}.ppo_mini_batch_size=16"], f"is below `{ACTOR}.ppo_mini_batch_size`"),
        (["data.train_batch_size=8", "critic.ppo_mini_batch_size=16"], "is below `critic.ppo_mini_batch_size`"),
        ([f"{ROLLOUT}.max_model_len=1000"], "max_model_len` (1000) is below"),
        (["trainer.resume_mode=resume_path"], "set `trainer.resume_from_path`"),
        (["trainer.resume_from_path=somewhere"], "global_step_N"),
        (["trainer.val_only=true", "trainer.val_before_train=false"], "nothing would run"),
        (["trainer.critic_warmup=6", "trainer.total_training_steps=5"], "the policy would never learn"),
        (["critic.enable=false"], "GAE needs the critic's values"),
        (["algorithm.adv_estimator=null"], "the loss 'vanilla' needs advantages"),
        (["algorithm.adv_estimator=grpo_passk"], "it compares the best two"),
        (["algorithm.adv_estimator=gdpo"], "`algorithm.gdpo_reward_keys`"),
        (
            [
                "algorithm.adv_estimator=gdpo",
                "algorithm.gdpo_reward_keys=[a,b]",
                "algorithm.gdpo_reward_weights=[1]",
            ],
            "has 1 numbers for the 2 names",
        ),
        (["algorithm.use_pf_ppo=true", "algorithm.adv_estimator=rloo"], "goes with 'gae' only"),
        ([f"{LOSS}.loss_mode=online_dpo"], "two answers to one task"),
        ([f"{LOSS}.loss_mode=dro"], f"set `{LOSS}.dro_beta`"),
        ([f"{LOSS}.clip_cov_lb=5", f"{LOSS}.clip_cov_ub=1"], "must be below"),
        ([f"{LOSS}.loss_mode=bypass_mode"], f"set `{CORRECTION}.bypass_mode` to True"),
        ([f"{CORRECTION}.bypass_mode=true", f"{LOSS}.loss_mode=gspo"], "leave out one of the two"),
        ([f"{CORRECTION}.bypass_mode=true", f"{CORRECTION}.rollout_is=token"], "set `loss_type` to 'reinforce'"),
        ([f"{CORRECTION}.rollout_is_threshold='2_0.5'"], "the other way round"),
        ([f"{CORRECTION}.rollout_is_threshold=0.5_2"], "is read as the number 0.52; put the two bounds in quotes"),
        ([f"{CORRECTION}.rollout_is_threshold=0"], "a number above 0"),
        ([f"{CORRECTION}.rollout_is_threshold=true"], "a threshold is a number"),
        ([f"{CORRECTION}.rollout_rs=seq_mean_k3"], "needs `rollout_rs_threshold`"),
        ([f"{CORRECTION}.rollout_rs=seq_max_k1", f"{CORRECTION}.rollout_rs_threshold=2"], "no way to reject"),
        (
            [f"{CORRECTION}.rollout_rs='token_k1,token_k2'", f"{CORRECTION}.rollout_rs_threshold='1,2,3'"],
            "has 3 values for the 2 options",
        ),
        (
            [f"{CORRECTION}.rollout_rs=token_k3", f"{CORRECTION}.rollout_rs_threshold='0.5_2'"],
            "two bounds for 'token_k3'",
        ),
        ([f"{OVERLONG}.enable=true", f"{OVERLONG}.len=600"], "choose 1 to 512"),
        ([f"{OVERLONG}.enable=true", f"{OVERLONG}.len=0"], "choose 1 to 512"),
        ([f"{ACTOR}.optim.optimizer=SDG"], "none of `torch.optim`"),
        (["agentlightning.curriculum=hardest"], "possible: 'success_rate'"),
        (["agentlightning.curriculum={name: success_rate, window: 0}"], "at least 1"),
        ([f"{ACTOR}.dpo_beta=0.2", "algorithm.dpo_beta=0.1"], "two names of `algorithm.dpo_beta`; keep one"),
    ],
)
def test_contradictions(words: list[str], part: str):
    message = error_of(*words)
    assert part in message
    assert "\n" not in message


def test_combinations_that_only_look_like_contradictions():
    assert load(f"{LOSS}.loss_mode=sppo", "critic.enable=false").config.needs_critic() is False
    assert load(f"{LOSS}.loss_mode=sppo", "algorithm.adv_estimator=null").config.algorithm.adv_estimator is None
    assert load(f"{CORRECTION}.bypass_mode=true").config.loss_mode() == "bypass_mode"
    load(f"{CORRECTION}.bypass_mode=true", f"{CORRECTION}.loss_type=reinforce", f"{CORRECTION}.rollout_is=token")
    load(f"{CORRECTION}.rollout_rs='seq_mean_k3,token_k1'", f"{CORRECTION}.rollout_rs_threshold='2.0,0.5_2.0'")


def test_remarks():
    words = ["algorithm.adv_estimator=grpo", "data.train_batch_size=10", f"{ACTOR}.ppo_mini_batch_size=4"]
    notes = kinds(load(*words))
    assert notes == {f"{ACTOR}.ppo_mini_batch_size": "info", f"{ROLLOUT}.n": "info"}
    quiet = load("data.train_batch_size=8", f"{ACTOR}.ppo_mini_batch_size=4", f"{ROLLOUT}.n=8")
    assert quiet.notes == []
    twice = load("algorithm.use_kl_in_reward=true", f"{ACTOR}.use_kl_loss=true")
    assert [note.instead for note in twice.notes] == [
        "the KL against the reference counts twice: in the reward and in the loss"
    ]
    assert kinds(load("critic.enable=true", "algorithm.adv_estimator=rloo", f"{ROLLOUT}.n=4")) == {
        "critic.enable": "info"
    }
    assert kinds(load(f"{LOSS}.loss_mode=gspo")) == {f"{ACTOR}.loss_agg_mode": "info"}
    (half,) = load(f"{ACTOR}.fsdp_config.model_dtype=bf16").notes
    assert (half.kind, "computed anew in each step" in half.instead) == ("info", True)
    assert load(f"{ACTOR}.fsdp_config.model_dtype=bf16", f"{CORRECTION}.bypass_mode=true").notes == []


def test_precision_is_fp32_or_bf16_and_only_fp32_promises_equal_runs():
    for word, name in (("fp32", "float32"), ("float32", "float32"), ("bf16", "bfloat16"), ("bfloat16", "bfloat16")):
        found = load(f"{ACTOR}.fsdp_config.model_dtype={word}", "trainer.device=cpu").config
        assert found.actor_rollout_ref.actor.fsdp_config.torch_name() == name
        assert found.is_deterministic() is (name == "float32")
    with pytest.raises(ConfigError, match=r"model_dtype` is 'fp16'.*'bf16'"):
        load(f"{ACTOR}.fsdp_config.model_dtype=fp16")


def test_both_spellings_of_dapos_keys_reach_the_same():
    old = [
        "reward_model.overlong_buffer.enable=true",
        "reward_model.overlong_buffer.len=64",
        "reward_model.overlong_buffer.penalty_factor=0.5",
        "reward_model.reward_manager=dapo",
    ]
    new = [
        f"+{OVERLONG}.enable=true",
        f"+{OVERLONG}.len=64",
        f"+{OVERLONG}.penalty_factor=0.5",
        "reward.reward_manager.name=dapo",
    ]
    middle = [word.replace("reward.reward_kwargs", "reward_model.reward_kwargs") for word in new]
    assert load(*old).config == load(*new).config == load(*middle).config
    assert load(*old).config.reward.reward_kwargs.overlong_buffer_cfg.len == 64
    assert kinds(load(*old))["reward_model.overlong_buffer.len"] == "info"


def test_seed_003s_dapo_snippet_loads_word_for_word():
    snippet = """
actor_rollout_ref:
  actor:
    clip_ratio_low: 0.2
    clip_ratio_high: 0.28
data:
  gen_batch_size: 1536
  train_batch_size: 512
  max_response_length: 20480
algorithm:
  filter_groups:
    enable: True
    metric: acc
    max_num_gen_batches: 10
reward_model:
  overlong_buffer:
    enable: True
    len: 4096
    penalty_factor: 1.0
"""
    config = load_config(OmegaConf.create(snippet), base={**MODEL, "algorithm.adv_estimator": "grpo"}).config
    assert config.actor_rollout_ref.actor.clip_ratio_high == 0.28
    assert config.algorithm.filter_groups.model_dump() == {"enable": True, "metric": "acc", "max_num_gen_batches": 10}
    assert config.reward.reward_kwargs.overlong_buffer_cfg.len == 4096


def test_old_spellings_of_whole_sections():
    config = load(
        "custom_reward_function.path=reward.py",
        "custom_reward_function.name=score",
        "+custom_reward_function.reward_kwargs.strict=true",
        "+custom_reward_function.reward_kwargs.weights.right=2.0",
        f"+{LOSS}.rollout_correction.rollout_is=token",
        f"+{LOSS}.tau_pos=1.5",
    ).config
    custom = config.reward.custom_reward_function
    assert (custom.path, custom.name) == ("reward.py", "score")
    assert custom.reward_kwargs == {"strict": True, "weights": {"right": 2.0}}
    assert config.algorithm.rollout_correction.rollout_is == "token"
    assert config.actor_rollout_ref.actor.tau_pos == 1.5


def test_the_critic_follows_the_actor_where_it_is_not_set():
    config = load(
        "data.train_batch_size=8", f"{ACTOR}.ppo_epochs=3", f"{ACTOR}.loss_agg_mode=token-sum", "critic.ppo_epochs=2"
    ).config
    assert (config.critic.ppo_epochs, config.critic.loss_agg_mode) == (2, "token-sum")
    assert config.critic.ppo_mini_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size == 8
    assert config.critic.model.path is None


def test_the_soft_limit_of_length_is_a_fifth_where_it_is_not_set():
    buffer = load(f"{OVERLONG}.enable=true", "data.max_response_length=100").config.reward.reward_kwargs
    assert buffer.overlong_buffer_cfg.len == 20
    longer = load(f"{OVERLONG}.enable=true", "reward.reward_kwargs.max_resp_len=1000").config.reward.reward_kwargs
    assert longer.overlong_buffer_cfg.len == 200


def test_mappings_take_any_names_and_merge_over_the_layers():
    model = "actor_rollout_ref.model.override_config"
    base = {**MODEL, model: {"attention_dropout": 0.1, "rope_scaling": {"factor": 2.0}}}
    resolved = load_config([f"{model}.attention_dropout=0.2", f"{model}.attn_implementation=sdpa"], base=base)
    assert resolved.config.actor_rollout_ref.model.override_config == {
        "attention_dropout": 0.2,
        "rope_scaling": {"factor": 2.0},
    }
    assert kinds(resolved) == {f"{model}.attn_implementation": "replaced"}
    optim = load(f"{ACTOR}.optim.optimizer=SGD", f"{ACTOR}.optim.override_optimizer_config.momentum=0.9").config
    assert optim.actor_rollout_ref.actor.optim.override_optimizer_config == {"momentum": 0.9}


def test_a_curriculum_is_a_name_or_a_mapping():
    assert load("agentlightning.curriculum=success_rate").config.agentlightning.curriculum == {"name": "success_rate"}
    base = {**MODEL, "agentlightning.curriculum": {"name": "success_rate", "window": 8}}
    with_more = load_config(["agentlightning.curriculum.epsilon=0.1"], base=base).config.agentlightning.curriculum
    assert with_more == {"name": "success_rate", "window": 8, "epsilon": 0.1}
    assert load().config.agentlightning.curriculum is None


def test_which_models_a_configuration_needs():
    assert load().config.needs_critic()
    assert not load().config.needs_reference()
    grpo = load("algorithm.adv_estimator=grpo", f"{ACTOR}.use_kl_loss=true").config
    assert (grpo.needs_critic(), grpo.needs_reference()) == (False, True)
    assert load("algorithm.use_kl_in_reward=true").config.needs_reference()
    spin = load(f"{LOSS}.loss_mode=online_dpo", f"{ROLLOUT}.n=2").config
    assert (spin.is_self_play(), spin.needs_critic(), spin.needs_reference()) == (True, False, True)
    sppo = load(f"{LOSS}.loss_mode=sppo").config
    assert (sppo.is_self_play(), sppo.needs_critic(), sppo.needs_reference()) == (True, False, False)
    assert load("critic.enable=true", "algorithm.adv_estimator=rloo").config.needs_critic()


@pytest.mark.parametrize("word", ["actor_rollout_ref.actor.optim.lr=inf", "actor_rollout_ref.actor.entropy_coeff=nan"])
def test_numbers_are_finite(word: str):
    with pytest.raises(ConfigError, match="finite"):
        load_config([word], base={"actor_rollout_ref.model.path": "m"})


@pytest.mark.parametrize("key", ["grad_clip", "clip_ratio_high"])
def test_a_bound_may_be_none_at_all(key: str):
    config = load_config([f"actor_rollout_ref.actor.{key}=inf"], base={"actor_rollout_ref.model.path": "m"}).config
    assert getattr(config.actor_rollout_ref.actor, key) == float("inf")


@pytest.mark.parametrize("overrides", [3, [3]])
def test_what_is_no_configuration_is_refused(overrides: Any):
    with pytest.raises(ConfigError, match="mapping, or a list of words"):
        load_config(overrides)
