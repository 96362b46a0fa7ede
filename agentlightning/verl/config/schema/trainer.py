"""`trainer`: the outer loop, what it writes and where it runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from .base import Count, Limit, PositiveInt, Section

LoggerName = Literal[
    "console",
    "file",
    "tensorboard",
    "wandb",
    "mlflow",
    "swanlab",
    "vemlp_wandb",
    "clearml",
    "trackio",
    "rl_insight",
]


class Trainer(Section):
    """The outer loop, what it writes and where it runs."""

    total_epochs: PositiveInt = 30
    """Passes over the training tasks."""
    total_training_steps: PositiveInt | None = None
    """Training steps; set, it wins over `total_epochs`."""
    val_before_train: bool = True
    """Validate before the first step."""
    val_only: bool = False
    """Validate and stop."""
    test_freq: Limit = -1
    """Validate every so many steps; -1 is only after the last one, 0 never (but see `val_before_train`)."""
    save_freq: Limit = 10
    """Save a checkpoint every so many steps, and always after the last one; -1 is only then."""
    max_actor_ckpt_to_keep: PositiveInt | None = 3
    """Checkpoints to keep, oldest deleted first; null keeps all."""
    default_local_dir: str | None = None
    """Where checkpoints go; null is the run directory."""
    resume_mode: Literal["auto", "disable", "resume_path"] = "auto"
    """`auto` goes on from the last checkpoint if there is one, `resume_path` from `resume_from_path`."""
    resume_from_path: str | None = None
    """The checkpoint (a `global_step_N` directory) that `resume_mode=resume_path` goes on from."""
    logger: Annotated[list[LoggerName], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = (
        Field(default_factory=lambda: ["console"])
    )
    """Where metrics go, besides `metrics.jsonl` which is always written."""
    project_name: str = "verl_examples"
    """Project of the run in loggers that have projects."""
    experiment_name: str = "gsm8k"
    """Name of the run in loggers."""
    critic_warmup: Count = 0
    """The step from which the policy learns, too; before it only the value model does."""
    ref_update_freq: Limit = -1
    """Take the policy for the reference every so many steps (SPIN's next round); 0 or -1 never."""
    rollout_data_dir: str | None = None
    """Write the rollouts of each step to `<dir>/<step>.jsonl`: input, output, gts, score, step, uid."""
    validation_data_dir: str | None = None
    """Write the validation rollouts likewise."""
    log_val_generations: Count = 0
    """Log so many answers of each validation to loggers that show text."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where model and engine live; `auto` takes a GPU if there is one."""
