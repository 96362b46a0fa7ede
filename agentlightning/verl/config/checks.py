"""Combinations of values: what can't be (one line each) and what is worth a remark. Called by `compose`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from .credit import credit_problem
from .notes import Note
from .schema import VerlConfig

_ROLLOUT = "actor_rollout_ref.rollout"
_ACTOR = "actor_rollout_ref.actor"
_BUILT_LOGGERS = {"console": None, "file": None, "tensorboard": "agentlightning[verl]", "wandb": "wandb"}
"""Loggers that work here, and what to install for them."""


def problems(config: VerlConfig) -> Iterator[str]:
    """Combinations that can't be."""
    data, trainer = config.data, config.trainer
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    if data.train_batch_size < actor.ppo_mini_batch_size:
        yield (
            f"`data.train_batch_size` ({data.train_batch_size}) is below `{_ACTOR}.ppo_mini_batch_size` "
            f"({actor.ppo_mini_batch_size}); a mini-batch is a part of the batch, so make it at most as large"
        )
    if rollout.max_model_len is not None and rollout.max_model_len < data.max_prompt_length + data.max_response_length:
        yield (
            f"`{_ROLLOUT}.max_model_len` ({rollout.max_model_len}) is below `data.max_prompt_length` + "
            f"`data.max_response_length` ({data.max_prompt_length} + {data.max_response_length}); raise it or leave it "
            "out"
        )
    if (problem := credit_problem(config.agentlightning.credit, rollout.n)) is not None:
        yield problem
    if trainer.resume_mode == "resume_path" and not trainer.resume_from_path:
        yield "`trainer.resume_mode` is 'resume_path'; set `trainer.resume_from_path` to a `global_step_N` directory"
    if trainer.resume_from_path and "global_step_" not in trainer.resume_from_path:
        yield f"`trainer.resume_from_path` is {trainer.resume_from_path!r}; it must be a `global_step_N` directory"
    if trainer.val_only and not trainer.val_before_train:
        yield "`trainer.val_only` is True but `trainer.val_before_train` is False: nothing would run; set one of them"


def remarks(config: VerlConfig, given: Mapping[str, Any]) -> Iterator[Note]:
    """Combinations that are worth knowing about."""
    yield from _loggers(config)
    actor, rollout, batch = (
        config.actor_rollout_ref.actor,
        config.actor_rollout_ref.rollout,
        config.data.train_batch_size,
    )
    if rollout.n == 1 and config.algorithm.adv_estimator == "grpo":
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
    if actor.optim.lr_warmup_steps > 0 and actor.optim.lr_warmup_steps_ratio > 0:
        yield Note(
            f"{_ACTOR}.optim.lr_warmup_steps_ratio",
            actor.optim.lr_warmup_steps_ratio,
            "no_effect",
            "`lr_warmup_steps` is set and wins",
        )
    if config.algorithm.adv_estimator == "grpo":
        for key in ("algorithm.gamma", "algorithm.lam"):
            if given.get(key, 1.0) != 1.0:
                yield Note(key, given[key], "no_effect", "`grpo` does not read it")


def _loggers(config: VerlConfig) -> Iterator[Note]:
    for name in config.trainer.logger:
        if name not in _BUILT_LOGGERS:
            yield Note(
                "trainer.logger", name, "replaced", "`metrics.jsonl` holds the numbers", "import them from there"
            )
        elif (package := _BUILT_LOGGERS[name]) and not _installed(name):
            yield Note(
                "trainer.logger",
                name,
                "replaced",
                f"`{name}` is not installed; `metrics.jsonl` holds the numbers",
                f"pip install '{package}'",
            )


def _installed(module: str) -> bool:
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
