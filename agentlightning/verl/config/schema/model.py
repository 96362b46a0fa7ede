"""`actor_rollout_ref.model` and `critic.model`: the model to train, and how it is loaded."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .base import Count, PositiveInt, Section


class Precision(Section):
    """What the weights are kept in."""

    model_dtype: Literal["fp32", "float32", "bf16", "bfloat16"] = "fp32"
    """Precision of the weights; in bf16 the optimizer steps fp32 copies of those it trains."""

    def torch_name(self) -> str:
        """`float32` or `bfloat16`."""
        return "float32" if self.model_dtype in ("fp32", "float32") else "bfloat16"


class Loading(Section):
    """How a model is loaded and adapted."""

    trust_remote_code: bool = False
    """Run code that comes with the model. Only for models whose source you trust."""
    override_config: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Values to change in the model's `config.json` on loading."""
    enable_gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, about a third more time."""
    lora_rank: Count = 0
    """Rank of a LoRA adapter; 0 trains all weights."""
    lora_alpha: PositiveInt = 16
    """Scale of the adapter: its product is multiplied by `lora_alpha / lora_rank`."""
    target_modules: str | list[str] = "all-linear"
    """Modules that get an adapter: their names, a regular expression, or `all-linear` (all but the output layer)."""
    exclude_modules: str | list[str] | None = None
    """Modules that get none: their names, or a regular expression."""
    lora_adapter_path: str | None = None
    """Directory of a trained adapter to go on with, in the layout of PEFT."""


class Model(Loading):
    """The model to train."""

    path: str = Field(min_length=1)
    """Directory or hub name of a Hugging Face causal LM."""
    tokenizer_path: str | None = None
    """Directory or hub name of the tokenizer; null is the model's own."""
    custom_chat_template: str | None = None
    """Chat template (Jinja) in place of the tokenizer's."""


class CriticModel(Loading):
    """The value model: a language model whose output layer gives one number."""

    path: str | None = None
    """Directory or hub name of the model it starts from; null is the policy's."""
