"""`data`: tasks, batches and lengths."""

from __future__ import annotations

from typing import Literal

from .base import Limit, PositiveInt, Section


class Data(Section):
    """Tasks, batches and lengths."""

    train_files: str | list[str] | None = None
    """Training tasks (.jsonl, .json, .parquet), used where `fit` gets no `train_dataset`."""
    val_files: str | list[str] | None = None
    """Validation tasks, used where `fit` gets no `val_dataset`."""
    train_max_samples: Limit = -1
    """Use at most this many training tasks; -1 is all."""
    val_max_samples: Limit = -1
    """Use at most this many validation tasks; -1 is all."""
    train_batch_size: PositiveInt = 1024
    """Tasks per training step; each is run `actor_rollout_ref.rollout.n` times."""
    gen_batch_size: PositiveInt | None = None
    """Tasks handed to the runners at once; null is `train_batch_size`. A step collects until its batch is full."""
    max_prompt_length: PositiveInt = 512
    """Longest prompt of a call, in tokens."""
    max_response_length: PositiveInt = 512
    """Longest response of a call, in tokens."""
    prompt_key: str = "prompt"
    """Column of the messages, for tasks in verl's format that no agent runs (`main_ppo`)."""
    reward_fn_key: str = "data_source"
    """Column that says which rule rewards such a task."""
    filter_overlong_prompts: bool = False
    """Leave out such tasks whose prompt is longer than `max_prompt_length`."""
    truncation: Literal["error", "left", "right", "middle"] = "error"
    """What happens to the prompt of such a task if it is too long: the run is refused, or the prompt is cut at that
    end. An agent's call whose prompt is too long is always refused."""
    shuffle: bool = True
    """Shuffle the training tasks anew in each epoch."""
    seed: int = 42
    """Seed of the shuffling; follows `agentlightning.seed` where it is not set."""
