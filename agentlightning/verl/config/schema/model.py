"""`actor_rollout_ref.model`: the model to train."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section


class Model(Section):
    """The model to train."""

    path: str = Field(min_length=1)
    """Directory or hub name of a Hugging Face causal LM."""
    enable_gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, about a third more time."""
    lora_rank: Literal[0] = 0
    """Rank of a LoRA adapter; 0 trains all weights."""
