"""Models, engines and learners made from a configuration: what `VERL` serves and what the loop trains.

`serve` is called by `algorithm.verl.VERL` before anything runs, `make_policy` by the loop in `trainer`, which knows how
many steps there are.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentlightning.credit import CreditRule
from agentlightning.inference.engine import Engine
from agentlightning.inference.loading import DTYPES, LoadedModel, load_model
from agentlightning.learner.learner import Learner, OptimizerConfig
from agentlightning.learner.lora import add_lora, load_adapter, shared_copy
from agentlightning.learner.reference import Reference
from agentlightning.learner.schedule import Schedule
from agentlightning.learner.value import Critic, ValueModel

from .config import VerlConfig
from .config.schema import Optim, PolicyConfig
from .config.schema.model import Loading, Model
from .policy import PolicyRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A policy's model and the engine that serves it."""

    engine: Engine
    model: Any
    tokenizer: Any
    base: Any | None
    """Where the model has an adapter: the same weights without it, its reference at no cost."""


Bases = dict[str, LoadedModel]
"""Models without the adapters of policies that share them, by what they were loaded from."""


def serve(config: VerlConfig, own: PolicyConfig, bases: Bases | None = None) -> Served:
    """Load a policy's model and make its engine, which is not started yet.

    Args:
        config: Settings of the run.
        own: Those of the policy.
        bases: Of the policies before it: one with an adapter takes its base from there, or puts it there.

    Raises:
        ModelError, ConfigError: the model or its adapter can't be loaded.
    """
    settings, rollout, data = own.actor_rollout_ref.model, own.actor_rollout_ref.rollout, config.data
    dtype = own.actor_rollout_ref.actor.fsdp_config.torch_name()
    loaded = _load(config, settings, dtype, {} if bases is None else bases)
    base = _adapt(loaded.model, settings, seed=config.agentlightning.seed)
    wanted = rollout.max_model_len or data.max_prompt_length + data.max_response_length
    engine = Engine(
        loaded.model,
        loaded.tokenizer,
        max_slots=rollout.max_num_seqs,
        max_prompt=data.max_prompt_length,
        max_context=wanted,
        max_prefill_tokens=rollout.max_num_batched_tokens,
    )
    if engine.context < wanted:
        logger.warning(
            "the configuration asks for %d tokens of context and `%s` has %d: longer calls are refused",
            wanted,
            settings.path,
            engine.context,
        )
    return Served(engine, loaded.model, loaded.tokenizer, base)


def make_policy(
    name: str, config: VerlConfig, own: PolicyConfig, served: Served, credit: CreditRule, total_steps: int
) -> PolicyRun:
    """The learner of a policy, with its critic and its reference where it is trained and needs them.

    Raises:
        ModelError: the critic's model can't be loaded.
    """
    actor = own.actor_rollout_ref.actor
    return PolicyRun(
        name,
        config,
        own,
        engine=served.engine,
        tokenizer=served.tokenizer,
        learner=Learner(
            served.model,
            optimizer=_optimizer(actor.optim, actor.grad_clip),
            schedule=_schedule(actor.optim, total_steps),
            token_budget=actor.ppo_max_token_len_per_gpu,
            threads=config.agentlightning.threads,
            gradient_checkpointing=own.actor_rollout_ref.model.enable_gradient_checkpointing,
        ),
        critic=_critic(config, own, served, total_steps) if own.trainable and config.needs_critic(own) else None,
        reference=_reference(config, own, served) if own.trainable and config.needs_reference(own) else None,
        credit=credit,
    )


def _load(config: VerlConfig, settings: Model, dtype: str, bases: Bases) -> LoadedModel:
    """The model. Bases of adapters are never written to, so that several policies have the same one."""
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "device": config.device(),
        "tokenizer": settings.tokenizer_path,
        "chat_template": settings.custom_chat_template,
        "overrides": settings.override_config,
        "trust_remote_code": settings.trust_remote_code,
    }
    if not _has_adapter(settings):
        return load_model(settings.path, **arguments)
    source = repr((settings.path, arguments))
    if source not in bases:
        bases[source] = load_model(settings.path, **arguments)
    return replace(bases[source], model=shared_copy(bases[source].model))


def _has_adapter(settings: Loading) -> bool:
    return bool(settings.lora_rank or settings.lora_adapter_path)


def _adapt(model: Any, settings: Loading, *, seed: int) -> Any | None:
    """Put the adapter that the settings ask for into `model`; returns the same weights without it."""
    if not _has_adapter(settings):
        return None
    base = shared_copy(model)
    if settings.lora_adapter_path:
        load_adapter(model, Path(settings.lora_adapter_path).expanduser())
    else:
        add_lora(
            model,
            rank=settings.lora_rank,
            alpha=settings.lora_alpha,
            target_modules=settings.target_modules,
            exclude_modules=settings.exclude_modules,
            seed=seed,
        )
    return base


def _critic(config: VerlConfig, own: PolicyConfig, served: Served, total_steps: int) -> Critic:
    """A value model of its own, or an adapter and a head on the policy's base, if that has the precision asked for."""
    settings = own.critic
    dtype = settings.fsdp.torch_name()
    if settings.model.path:
        model = load_model(
            settings.model.path,
            dtype=dtype,
            device=config.device(),
            overrides=settings.model.override_config,
            trust_remote_code=settings.model.trust_remote_code,
        ).model
    elif settings.model.lora_rank and served.base is not None and served.base.dtype == DTYPES[dtype]:
        model = shared_copy(served.base)
    else:
        model = copy.deepcopy(served.base if served.base is not None else served.model)
        model = model.to(DTYPES[dtype]).requires_grad_(True)
    _adapt(model, settings.model, seed=config.agentlightning.seed + 1)
    return Critic(
        ValueModel(model),
        optimizer=_optimizer(settings.optim, settings.grad_clip),
        schedule=_schedule(settings.optim, total_steps),
        token_budget=settings.ppo_max_token_len_per_gpu,
        threads=config.agentlightning.threads,
        gradient_checkpointing=settings.model.enable_gradient_checkpointing,
    )


def _reference(config: VerlConfig, own: PolicyConfig, served: Served) -> Reference:
    """The base of a policy with an adapter, at no cost; else a copy of the policy as it is at the start.

    A reference that follows the policy (`trainer.ref_update_freq`) needs weights of its own.
    """
    shared = served.base is not None and config.trainer.ref_update_freq <= 0
    settings: dict[str, Any] = {
        "token_budget": own.actor_rollout_ref.actor.ppo_max_token_len_per_gpu,
        "threads": config.agentlightning.threads,
    }
    return Reference(served.base, **settings) if shared else Reference.copy_of(served.model, **settings)


def _optimizer(optim: Optim, grad_clip: float) -> OptimizerConfig:
    return OptimizerConfig(
        lr=optim.lr,
        betas=optim.betas,
        weight_decay=optim.weight_decay,
        grad_clip=grad_clip,
        optimizer=optim.optimizer,
        optimizer_impl=optim.optimizer_impl,
        override_optimizer_config=optim.override_optimizer_config or {},
    )


def _schedule(optim: Optim, total_steps: int) -> Schedule:
    length = optim.total_training_steps if optim.total_training_steps > 0 else total_steps
    warmup = optim.lr_warmup_steps if optim.lr_warmup_steps > 0 else int(optim.lr_warmup_steps_ratio * length)
    return Schedule(length, warmup, optim.lr_scheduler_type, optim.min_lr_ratio, optim.num_cycles)
