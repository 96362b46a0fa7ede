"""Keys that were set but that nothing reads under the other settings, such as `kl_loss_coef` without `use_kl_loss`.

Called by `compose`, which puts a `no_effect` note into the table at start. verl would do nothing with them either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .checks import TEXT_LOGGERS, is_installed
from .interpolation import defaults_of
from .layers import FOLLOWERS
from .names import fields
from .notes import Note
from .rules import matches
from .schema import ESTIMATORS, POLICY_LOSSES, Optim, VerlConfig
from .schema.optim import WITH_BETAS

_ACTOR = "actor_rollout_ref.actor."
_LOSS = f"{_ACTOR}policy_loss."
_UNCLIPPED = ("gpg", "reinforce", "sapo", "dro", "kl_cov")
"""Losses without a clip range."""


@dataclass(frozen=True, slots=True)
class Unread:
    """Keys and when they are read.

    Args:
        keys: Full names, where `*` stands for anything and `{a,b}` for either.
        read: Whether something reads them.
        why: Why nothing does; `{estimator}` and `{loss}` stand for the names in use.
    """

    keys: tuple[str, ...]
    read: Callable[[VerlConfig], bool]
    why: str


def _estimator(*names: str) -> Callable[[VerlConfig], bool]:
    """Whether one of these estimators runs, or one that somebody registered and of which nothing is known."""

    def read(config: VerlConfig) -> bool:
        name = config.algorithm.adv_estimator
        return not config.is_self_play() and (name in names or name not in ESTIMATORS)

    return read


def _loss(*names: str) -> Callable[[VerlConfig], bool]:
    """Whether one of these losses runs, or one that somebody registered."""

    def read(config: VerlConfig) -> bool:
        name = config.loss_mode()
        return name in names or not (name in POLICY_LOSSES or config.is_self_play())

    return read


_NO_ESTIMATOR = "`{estimator}` does not read it"
_NO_ADVANTAGES = "the loss `{loss}` needs no advantages"
_NO_LOSS = "the loss `{loss}` does not read it"
_OVERLONG = "reward.reward_kwargs."
_GROUPS = "algorithm.filter_groups."
_CORRECTION = "algorithm.rollout_correction."


def _of_optim(section: str, optim: Callable[[VerlConfig], Optim]) -> Iterator[Unread]:
    """The rows of an optimizer's section."""
    yield Unread(
        (f"{section}{{min_lr_ratio,num_cycles}}",),
        lambda c: optim(c).lr_scheduler_type == "cosine",
        "`lr_scheduler_type` is constant",
    )
    yield Unread(
        (f"{section}total_training_steps",),
        lambda c: optim(c).lr_scheduler_type == "cosine" or optim(c).lr_warmup_steps_ratio > 0,
        "`lr_scheduler_type` is constant, without a warm-up that is a share of the steps",
    )
    yield Unread(
        (f"{section}betas",),
        lambda c: optim(c).optimizer_impl != "torch.optim" or optim(c).optimizer in WITH_BETAS,
        "the optimizer has no betas; its own arguments go into `override_optimizer_config`",
    )


TABLE = (
    Unread(("algorithm.adv_estimator",), lambda c: not c.is_self_play(), _NO_ADVANTAGES),
    Unread(("algorithm.gamma",), _estimator("gae", "reinforce_plus_plus"), _NO_ESTIMATOR),
    Unread(("algorithm.lam",), _estimator("gae"), _NO_ESTIMATOR),
    Unread(
        ("algorithm.norm_adv_by_std_in_grpo",),
        _estimator("grpo", "grpo_vectorized", "grpo_passk", "gdpo"),
        _NO_ESTIMATOR,
    ),
    Unread(("algorithm.gdpo_reward_{keys,weights}",), _estimator("gdpo"), _NO_ESTIMATOR),
    Unread(
        ("algorithm.{kl_penalty,kl_ctrl.*}",),
        lambda c: c.algorithm.use_kl_in_reward,
        "`algorithm.use_kl_in_reward` is False",
    ),
    Unread(
        ("algorithm.kl_ctrl.{horizon,target_kl}",),
        lambda c: c.algorithm.kl_ctrl.type == "adaptive",
        "`algorithm.kl_ctrl.type` is fixed",
    ),
    Unread(
        (f"{_GROUPS}{{metric,max_num_gen_batches,max_inflight_gen_batches}}",),
        lambda c: c.algorithm.filter_groups.enable,
        f"`{_GROUPS}enable` is False",
    ),
    Unread(("algorithm.pf_ppo.*",), lambda c: c.algorithm.use_pf_ppo, "`algorithm.use_pf_ppo` is False"),
    Unread(
        (f"{_CORRECTION}rollout_is_{{threshold,batch_normalize}}",),
        lambda c: c.algorithm.rollout_correction.rollout_is is not None,
        f"`{_CORRECTION}rollout_is` is not set",
    ),
    Unread(
        (f"{_CORRECTION}rollout_rs_threshold",),
        lambda c: c.algorithm.rollout_correction.rollout_rs is not None,
        f"`{_CORRECTION}rollout_rs` is not set",
    ),
    Unread(
        (f"{_CORRECTION}loss_type",),
        lambda c: c.algorithm.rollout_correction.bypass_mode,
        f"`{_CORRECTION}bypass_mode` is False",
    ),
    Unread(("algorithm.dpo_*",), _loss("online_dpo"), _NO_LOSS),
    Unread(("agentlightning.spin_pairs",), _loss("online_dpo"), _NO_LOSS),
    Unread(
        (
            f"{_ACTOR}{{entropy_coeff,use_kl_loss,loss_agg_mode,loss_scale_factor}}",
            "algorithm.{use_kl_in_reward,rollout_correction.*}",
        ),
        lambda c: c.loss_mode() != "online_dpo",
        _NO_LOSS,
    ),
    Unread((f"{_CORRECTION}rollout_is*",), lambda c: c.loss_mode() != "sppo", _NO_LOSS),
    Unread((f"{{algorithm.,{_ACTOR}}}sppo_eta",), _loss("sppo"), _NO_LOSS),
    Unread((f"{_ACTOR}tau_{{pos,neg}}",), _loss("sapo"), _NO_LOSS),
    Unread((f"{_LOSS}clip_cov_*",), _loss("clip_cov"), _NO_LOSS),
    Unread((f"{_LOSS}{{kl_cov_ratio,ppo_kl_coef}}",), _loss("kl_cov"), _NO_LOSS),
    Unread((f"{_LOSS}dro_beta",), _loss("dro"), _NO_LOSS),
    Unread((f"{_ACTOR}clip_ratio_c",), _loss("vanilla", "dppo_tv", "dppo_kl", "bypass_mode"), _NO_LOSS),
    Unread(
        (f"{_ACTOR}clip_ratio{{,_low,_high}}",),
        _loss(*(name for name in POLICY_LOSSES if name not in _UNCLIPPED)),
        _NO_LOSS,
    ),
    Unread(
        (f"{_ACTOR}kl_loss_{{coef,type}}",),
        lambda c: c.actor_rollout_ref.actor.use_kl_loss,
        f"`{_ACTOR}use_kl_loss` is False",
    ),
    Unread(
        (f"{_ACTOR}loss_scale_factor",),
        lambda c: c.actor_rollout_ref.actor.loss_agg_mode == "seq-mean-token-sum-norm",
        f"`{_ACTOR}loss_agg_mode` is not seq-mean-token-sum-norm",
    ),
    Unread(
        ("actor_rollout_ref.ref.*", "trainer.ref_update_freq"),
        lambda c: c.needs_reference(),
        "there is no reference model: KL terms are off",
    ),
    Unread(
        ("critic.*", "trainer.{critic_warmup,max_critic_ckpt_to_keep}"),
        lambda c: c.needs_critic(),
        "there is no critic",
    ),
    Unread(
        ("actor_rollout_ref.model.{lora_alpha,target_modules,exclude_modules}",),
        lambda c: c.actor_rollout_ref.model.lora_rank > 0 and c.actor_rollout_ref.model.lora_adapter_path is None,
        "no new adapter is made: `actor_rollout_ref.model.lora_rank` is 0, or `lora_adapter_path` is set",
    ),
    Unread(
        ("critic.model.{lora_alpha,target_modules,exclude_modules}",),
        lambda c: c.critic.model.lora_rank > 0 and c.critic.model.lora_adapter_path is None,
        "no new adapter is made: `critic.model.lora_rank` is 0, or `lora_adapter_path` is set",
    ),
    Unread(
        ("critic.model.{override_config*,trust_remote_code}",),
        lambda c: c.critic.model.path is not None,
        "`critic.model.path` is not set: the critic starts from the policy's model",
    ),
    Unread(
        (f"{_OVERLONG}overlong_buffer_cfg.{{len,penalty_factor,log}}", f"{_OVERLONG}max_resp_len"),
        lambda c: c.reward.reward_kwargs.overlong_buffer_cfg.enable,
        f"`{_OVERLONG}overlong_buffer_cfg.enable` is False",
    ),
    Unread(
        ("reward.custom_reward_function.{name,reward_kwargs*}",),
        lambda c: c.reward.custom_reward_function.path is not None,
        "`reward.custom_reward_function.path` is not set",
    ),
    Unread(
        ("agentlightning.filter_zero_variance",),
        lambda c: not c.algorithm.filter_groups.enable,
        f"`{_GROUPS}enable` replaces such groups",
    ),
    Unread(("trainer.total_epochs",), lambda c: c.trainer.total_training_steps is None, "`total_training_steps` wins"),
    Unread(
        ("trainer.resume_from_path",),
        lambda c: c.trainer.resume_mode == "resume_path",
        "`trainer.resume_mode` is not resume_path",
    ),
    Unread(
        ("trainer.log_val_generations",),
        lambda c: any(map(is_installed, TEXT_LOGGERS.intersection(c.trainer.logger))),
        "`trainer.logger` has none that shows text and is installed, such as tensorboard",
    ),
    Unread(
        ("actor_rollout_ref.rollout.val_kwargs.{temperature,top_p,top_k}",),
        lambda c: c.actor_rollout_ref.rollout.val_kwargs.do_sample,
        "`actor_rollout_ref.rollout.val_kwargs.do_sample` is False: validation is greedy",
    ),
    Unread(
        ("data.seed",),
        lambda c: c.data.shuffle or c.agentlightning.curriculum is not None,
        "`data.shuffle` is False",
    ),
    Unread((f"{_ACTOR}data_loader_seed",), lambda c: c.actor_rollout_ref.actor.shuffle, f"`{_ACTOR}shuffle` is False"),
    *_of_optim(f"{_ACTOR}optim.", lambda c: c.actor_rollout_ref.actor.optim),
    *_of_optim("critic.optim.", lambda c: c.critic.optim),
    Unread(
        (f"{_ACTOR}optim.lr_warmup_steps_ratio",),
        lambda c: c.actor_rollout_ref.actor.optim.lr_warmup_steps <= 0,
        "`lr_warmup_steps` is set and wins",
    ),
    Unread(
        ("critic.optim.lr_warmup_steps_ratio",),
        lambda c: c.critic.optim.lr_warmup_steps <= 0,
        "`lr_warmup_steps` is set and wins",
    ),
)
"""All of them. A key may stand in several rows, and is read if all rows say so."""


def unread(config: VerlConfig, key: str) -> str | None:
    """Why nothing reads `key` under this configuration; `None` if something does."""
    for row in TABLE:
        if any(matches(pattern, key) for pattern in row.keys) and not row.read(config):
            why = _NO_ADVANTAGES if row.why == _NO_ESTIMATOR and config.is_self_play() else row.why
            return why.format(estimator=config.algorithm.adv_estimator, loss=config.loss_mode())
    return None


def unread_notes(views: Sequence[VerlConfig], given: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Note]:
    """A note for each key that was given another value than its default and that no policy's settings read.

    Args:
        views: The configuration as each policy has it.
        given: What the user set, by full name.
        settings: The same and what follows from it, interpolations resolved.
    """
    defaults = defaults_of((key for key in given if key not in fields()), settings)
    for key in given:
        value, field = settings.get(key, given[key]), fields().get(key)
        default = defaults[key] if field is None else field.get_default(call_default_factory=True)
        follows = key in FOLLOWERS and value == settings.get(FOLLOWERS[key])
        default = list(default) if isinstance(default, tuple) else default
        off = value is None or (value is False and default is not True)
        reasons = [unread(view, key) for view in views]
        if value != default and not (off or follows) and all(reasons):
            yield Note(key, value, "no_effect", reasons[0] or "")
