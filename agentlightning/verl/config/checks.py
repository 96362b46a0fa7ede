"""Combinations of values: what can't be (one line each) and what is worth a remark. Called by `compose`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentlightning.types import ConfigError
from agentlightning.verl.tasks import task_order

from .credit import credit_problem
from .notes import Note
from .schema import VerlConfig

_ROLLOUT = "actor_rollout_ref.rollout"
_ACTOR = "actor_rollout_ref.actor"
_LOSS_MODE = f"{_ACTOR}.policy_loss.loss_mode"
_CORRECTION = "algorithm.rollout_correction"
_GROUP_ESTIMATORS = (
    *("grpo", "grpo_vectorized", "gdpo", "rloo", "rloo_vectorized", "opo", "gpg", "reinforce_plus_plus_baseline"),
    *("optimal_token_baseline", "tir_optimal_token_baseline"),
)
"""Estimators that compare the rollouts of one task, and go on with a group of one."""
OVERLONG_LEN = "reward.reward_kwargs.overlong_buffer_cfg.len"
_BUILT_LOGGERS = {"console": None, "file": None, "tensorboard": "agentlightning[verl]", "wandb": "wandb"}
"""Loggers that work here, and what to install for them."""
TEXT_LOGGERS = frozenset({"tensorboard", "wandb"})
"""Loggers that show text."""


def problems(config: VerlConfig) -> Iterator[str]:
    """Combinations that can't be, of the settings that a policy may have of its own."""
    data, actor = config.data, config.actor_rollout_ref.actor
    rollout = config.actor_rollout_ref.rollout
    sizes = {_ACTOR: actor.ppo_mini_batch_size}
    if config.needs_critic() and config.critic.ppo_mini_batch_size != actor.ppo_mini_batch_size:
        sizes["critic"] = config.critic.ppo_mini_batch_size
    for section, size in sizes.items():
        if data.train_batch_size < size:
            yield (
                f"`data.train_batch_size` ({data.train_batch_size}) is below `{section}.ppo_mini_batch_size` ({size}); "
                "a mini-batch is a part of the batch, so make it at most as large"
            )
    if rollout.max_model_len is not None and rollout.max_model_len < data.max_prompt_length + data.max_response_length:
        yield (
            f"`{_ROLLOUT}.max_model_len` ({rollout.max_model_len}) is below `data.max_prompt_length` + "
            f"`data.max_response_length` ({data.max_prompt_length} + {data.max_response_length}); raise it or leave it "
            "out"
        )
    yield from _estimator_problems(config)
    yield from _loss_problems(config)


def _estimator_problems(config: VerlConfig) -> Iterator[str]:
    algorithm, n = config.algorithm, config.actor_rollout_ref.rollout.n
    name = algorithm.adv_estimator
    if name is None and not config.is_self_play():
        yield (
            f"`algorithm.adv_estimator` is null, and the loss {config.loss_mode()!r} needs advantages; choose one, "
            "such as 'grpo'"
        )
    if name == "gae" and config.critic.enable is False and not config.is_self_play():
        yield (
            "`algorithm.adv_estimator` is 'gae' and `critic.enable` is False; GAE needs the critic's values, so leave "
            "`critic.enable` out or choose another estimator, such as 'grpo'"
        )
    if name == "grpo_passk" and n < 2:
        yield (
            f"`algorithm.adv_estimator` is 'grpo_passk' and `{_ROLLOUT}.n` is {n}; make it 2 or more: it compares the "
            "best two"
        )
    if name == "gdpo" and not algorithm.gdpo_reward_keys:
        yield "`algorithm.adv_estimator` is 'gdpo'; name the reward dimensions in `algorithm.gdpo_reward_keys`"
    keys, weights = algorithm.gdpo_reward_keys, algorithm.gdpo_reward_weights
    if name == "gdpo" and keys and weights is not None and len(weights) != len(keys):
        yield (
            f"`algorithm.gdpo_reward_weights` has {len(weights)} numbers for the {len(keys)} names in "
            "`algorithm.gdpo_reward_keys`; give one each"
        )
    if algorithm.use_pf_ppo and name != "gae":
        yield f"`algorithm.use_pf_ppo` is True and `algorithm.adv_estimator` is {name!r}; it goes with 'gae' only"


def _loss_problems(config: VerlConfig) -> Iterator[str]:
    actor, correction = config.actor_rollout_ref.actor, config.algorithm.rollout_correction
    mode, n = actor.policy_loss.loss_mode, config.actor_rollout_ref.rollout.n
    if mode == "online_dpo" and n < 2:
        yield (
            f"`{_LOSS_MODE}` is 'online_dpo' and `{_ROLLOUT}.n` is {n}; a pair is two answers to one task, so make it "
            "2 or more"
        )
    if mode == "dro" and actor.policy_loss.dro_beta is None:
        yield f"`{_LOSS_MODE}` is 'dro'; set `{_ACTOR}.policy_loss.dro_beta`, the weight of its squared log-ratio"
    if actor.policy_loss.clip_cov_lb >= actor.policy_loss.clip_cov_ub:
        yield f"`{_ACTOR}.policy_loss.clip_cov_lb` must be below `{_ACTOR}.policy_loss.clip_cov_ub`"
    if mode == "bypass_mode" and not correction.bypass_mode:
        yield f"`{_LOSS_MODE}` is 'bypass_mode'; set `{_CORRECTION}.bypass_mode` to True, which chooses that loss"
    if correction.bypass_mode and mode not in ("vanilla", "bypass_mode"):
        yield (
            f"`{_CORRECTION}.bypass_mode` is True and `{_LOSS_MODE}` is {mode!r}; the loss is then that of "
            f"`{_CORRECTION}.loss_type`, so leave out one of the two"
        )
    if correction.bypass_mode and correction.loss_type == "ppo_clip" and correction.rollout_is is not None:
        yield (
            f"`{_CORRECTION}.rollout_is` is {correction.rollout_is!r} in bypass mode with `loss_type` 'ppo_clip', "
            "whose ratio is that weight already; leave it out, or set `loss_type` to 'reinforce'"
        )


def run_problems(config: VerlConfig) -> Iterator[str]:
    """Combinations that can't be, of the settings that all policies share."""
    trainer = config.trainer
    if (problem := credit_problem(config.agentlightning.credit, config)) is not None:
        yield problem
    if config.algorithm.filter_groups.metric == "seq_final_reward" and config.algorithm.use_kl_in_reward:
        yield (
            "`algorithm.filter_groups.metric` is 'seq_final_reward', and with `algorithm.use_kl_in_reward` that is not "
            "known when groups are chosen; set it to 'seq_reward', the reward before the KL penalty"
        )
    try:
        task_order(1, 1, seed=0, curriculum=config.agentlightning.curriculum)
    except ConfigError as error:
        yield str(error)
    yield from _overlong_problems(config)
    if trainer.resume_mode == "resume_path" and not trainer.resume_from_path:
        yield "`trainer.resume_mode` is 'resume_path'; set `trainer.resume_from_path` to a `global_step_N` directory"
    if trainer.resume_from_path and "global_step_" not in trainer.resume_from_path:
        yield f"`trainer.resume_from_path` is {trainer.resume_from_path!r}; it must be a `global_step_N` directory"
    if trainer.val_only and not trainer.val_before_train:
        yield "`trainer.val_only` is True but `trainer.val_before_train` is False: nothing would run; set one of them"
    if trainer.total_training_steps is not None and trainer.critic_warmup > trainer.total_training_steps:
        yield (
            f"`trainer.critic_warmup` ({trainer.critic_warmup}) is above `trainer.total_training_steps` "
            f"({trainer.total_training_steps}): the policy would never learn; make it smaller"
        )
    if config.agentlightning.policies and not any(p.trainable for p in config.agentlightning.policies.values()):
        yield "`agentlightning.policies` has none that is `trainable`: nothing would learn; make one so"


def _overlong_problems(config: VerlConfig) -> Iterator[str]:
    shaping = config.reward.reward_kwargs
    longest = shaping.max_resp_len or config.data.max_response_length
    buffer = shaping.overlong_buffer_cfg
    if buffer.enable and not 0 < buffer.len <= longest:
        yield (
            f"`{OVERLONG_LEN}` is {buffer.len}; the penalty grows over that many tokens "
            f"up to the longest response ({longest}), so choose 1 to {longest}"
        )


def path_problems(config: VerlConfig) -> Iterator[str]:
    """Files and directories that the run would miss only when its work is done."""
    trainer = config.trainer
    start = trainer.resume_from_path if trainer.resume_mode == "resume_path" else None
    if start is not None and not Path(start).expanduser().is_dir():
        yield f"`trainer.resume_from_path` is {start!r}, and there is no such directory; give that of a checkpoint"
    for name in ("default_local_dir", "rollout_data_dir", "validation_data_dir"):
        value = getattr(trainer, name)
        if value is not None and not _can_be_made(Path(value).expanduser().absolute()):
            yield f"`trainer.{name}` is {value!r}, where no files can be written; give another directory"


def _can_be_made(directory: Path) -> bool:
    """Whether a directory is there, or can be, and can be written into."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def remarks(config: VerlConfig) -> Iterator[Note]:
    """Combinations that are worth knowing about."""
    yield from _loggers(config)
    actor, rollout, batch = (
        config.actor_rollout_ref.actor,
        config.actor_rollout_ref.rollout,
        config.data.train_batch_size,
    )
    if rollout.n == 1 and config.algorithm.adv_estimator in _GROUP_ESTIMATORS and not config.is_self_play():
        yield Note(f"{_ROLLOUT}.n", 1, "info", "a group of one has nothing to compare with", "set it to 4 or more")
    if rest := batch % actor.ppo_mini_batch_size:
        yield Note(
            f"{_ACTOR}.ppo_mini_batch_size",
            actor.ppo_mini_batch_size,
            "info",
            f"the last mini-batch of a step holds {rest} tasks",
            "choose a divisor of `data.train_batch_size` for equal ones",
        )
    if rollout.val_kwargs.n > 1 and not rollout.val_kwargs.do_sample:
        yield Note(
            f"{_ROLLOUT}.val_kwargs.n",
            rollout.val_kwargs.n,
            "info",
            "greedy answers to one task are all the same",
            f"set `{_ROLLOUT}.val_kwargs.do_sample` and a temperature",
        )
    if actor.fsdp_config.torch_name() != "float32" and not config.algorithm.rollout_correction.bypass_mode:
        yield Note(
            f"{_ACTOR}.fsdp_config.model_dtype",
            actor.fsdp_config.model_dtype,
            "info",
            "engine and learner round apart, so old log-probs are computed anew in each step",
            "set `algorithm.rollout_correction.bypass_mode` to take the recorded ones",
        )
    yield from _loss_remarks(config)


def _loss_remarks(config: VerlConfig) -> Iterator[Note]:
    actor = config.actor_rollout_ref.actor
    if config.algorithm.use_kl_in_reward and actor.use_kl_loss:
        yield Note(
            f"{_ACTOR}.use_kl_loss",
            True,
            "info",
            "the KL against the reference counts twice: in the reward and in the loss",
            "as a rule one of them is enough",
        )
    if config.critic.enable and config.algorithm.adv_estimator != "gae":
        yield Note(
            "critic.enable",
            True,
            "info",
            f"values are learned, but `{config.algorithm.adv_estimator}` does not read them",
            "leave it out to save their time",
        )
    if config.loss_mode() == "gspo" and actor.loss_agg_mode == "token-mean":
        yield Note(
            f"{_ACTOR}.loss_agg_mode",
            actor.loss_agg_mode,
            "info",
            "GSPO's paper weighs rollouts, not tokens, alike",
            "set it to seq-mean-token-mean for that",
        )


def _loggers(config: VerlConfig) -> Iterator[Note]:
    for name in config.trainer.logger:
        if name not in _BUILT_LOGGERS:
            yield Note(
                "trainer.logger", name, "replaced", "`metrics.jsonl` holds the numbers", "import them from there"
            )
        elif (package := _BUILT_LOGGERS[name]) and not is_installed(name):
            yield Note(
                "trainer.logger",
                name,
                "replaced",
                f"`{name}` is not installed; `metrics.jsonl` holds the numbers",
                f"pip install '{package}'",
            )


def is_installed(module: str) -> bool:
    """Whether a module can be imported; a mere directory of that name (W&B makes one) is not a module."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def device_notes(given: Mapping[str, Any], device: str) -> list[Note]:
    """Answers that depend on the device found, for the loop to add when it knows.

    Args:
        given: What the user set, by full name.
        device: torch's name of the device, such as `cpu`.
    """
    if device != "cpu":
        return []
    wanted = {"trainer.device": "cuda", "trainer.n_gpus_per_node": 1}
    return [
        Note(key, value, "replaced", "no GPU found: this run is on the CPU", "run on a machine with a GPU")
        for key, value in wanted.items()
        if given.get(key) == value
    ]
