"""Where our defaults are not verl's, and why. `docs/config.md` shows this table; a test holds that it is complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Difference:
    """One key whose default differs.

    Args:
        key: Full name.
        verl: verl's default.
        ours: Our default, as a value or in words.
        why: The reason.
    """

    key: str
    verl: Any
    ours: Any
    why: str


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "actor_rollout_ref.model.path", "~/models/deepseek-llm-7b-chat", "required", "no model fits everybody's machine"
    ),
    Difference("actor_rollout_ref.rollout.name", "???", "native", "the native engine is always there"),
    Difference(
        "actor_rollout_ref.actor.ppo_mini_batch_size",
        256,
        "256, at most `data.train_batch_size`",
        "a small batch alone should not be an error",
    ),
    Difference(
        "actor_rollout_ref.actor.clip_ratio_low", 0.2, "`clip_ratio`", "in verl `clip_ratio` set alone does nothing"
    ),
    Difference(
        "actor_rollout_ref.actor.clip_ratio_high", 0.2, "`clip_ratio`", "in verl `clip_ratio` set alone does nothing"
    ),
    Difference(
        "actor_rollout_ref.actor.use_dynamic_bsz",
        False,
        True,
        "micro-batches are always cut by token budget; same gradient",
    ),
    Difference(
        "actor_rollout_ref.actor.fsdp_config.dtype",
        "bfloat16",
        "that of `model_dtype`",
        "one precision, without autocast",
    ),
    Difference(
        "actor_rollout_ref.rollout.dtype",
        "bfloat16",
        "that of `actor_rollout_ref.actor.fsdp_config.model_dtype`",
        "engine and learner share one set of weights",
    ),
    Difference("actor_rollout_ref.rollout.tensor_model_parallel_size", 2, 1, "the native engine runs in one process"),
    Difference("critic.model.path", "~/models/deepseek-llm-7b-chat", None, "the critic starts from the policy's model"),
    Difference("critic.fsdp.dtype", "bfloat16", "that of `model_dtype`", "one precision, without autocast"),
    Difference("data.seed", None, 42, "a run is repeatable by default; follows `agentlightning.seed`"),
    Difference("data.train_files", "~/data/rlhf/gsm8k/train.parquet", None, "tasks usually come from `fit`"),
    Difference("data.val_files", "~/data/rlhf/gsm8k/test.parquet", None, "tasks usually come from `fit`"),
    Difference("trainer.device", "cuda", "auto", "a GPU is used if there is one"),
    Difference("trainer.save_freq", -1, 10, "a killed run goes on from its last checkpoint"),
    Difference("trainer.max_actor_ckpt_to_keep", None, 3, "many checkpoints fill the disk"),
    Difference("trainer.n_gpus_per_node", 8, 1, "one process"),
    Difference("trainer.logger", ["console", "wandb"], ["console"], "no account needed to start"),
    Difference(
        "trainer.default_local_dir",
        "checkpoints/${trainer.project_name}/${trainer.experiment_name}",
        None,
        "checkpoints are kept in the run directory",
    ),
)
"""All keys whose default differs from verl's."""
