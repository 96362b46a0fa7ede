"""`actor_rollout_ref.rollout`: the inference engine and how it samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Float, Limit, NonNegative, PositiveInt, Section

TopP = Annotated[Float, Field(gt=0, le=1)]


class ValKwargs(Section):
    """How validation samples."""

    temperature: NonNegative = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: TopP = 1.0
    """Sample from the smallest set of tokens with this probability."""
    top_k: Limit = -1
    """Sample from the k likeliest tokens; -1 or 0 is all."""
    n: PositiveInt = 1
    """Rollouts per validation task."""
    do_sample: bool = False
    """False is greedy, whatever `temperature` says."""


class MultiTurn(Section):
    """Tool calls."""

    format: Literal["hermes"] = "hermes"
    """How the model writes tool calls."""


class Rollout(Section):
    """The inference engine and how it samples in training."""

    name: Literal["native"] = "native"
    """The inference engine: `native` shares the learner's weights in memory."""
    n: PositiveInt = 1
    """Rollouts per task: the group that GRPO compares."""
    temperature: Annotated[Float, Field(gt=0)] = 1.0
    """Sampling temperature of training rollouts; log-probs are taken at it."""
    top_p: TopP = 1.0
    """Sample from the smallest set of tokens with this probability."""
    top_k: Limit = -1
    """Sample from the k likeliest tokens; -1 or 0 is all."""
    do_sample: Literal[True] = True
    """Training compares different answers to one task, so it samples."""
    max_num_seqs: PositiveInt = 256
    """Sequences that the engine decodes at once."""
    max_num_batched_tokens: PositiveInt = 8192
    """Prompt tokens that the engine reads in one forward pass."""
    max_model_len: PositiveInt | None = None
    """Longest prompt and response together, in tokens; null is the sum of `data.max_prompt_length` and
    `data.max_response_length`. Never more than the model's own limit."""
    seed: int = 42
    """Seed of the sampling; follows `agentlightning.seed` where it is not set."""
    val_kwargs: ValKwargs = Field(default_factory=ValKwargs)
    """How validation samples."""
    multi_turn: MultiTurn = Field(default_factory=MultiTurn)
    """Tool calls."""
