"""The attention function `agl`: any Hugging Face causal LM on packed tokens, with or without the engine's KV slots.

A model loaded with `attn_implementation="agl"` (see `loading.py`) hands its queries, keys and values to
`_attention_forward`. With an `AttentionContext` in the call (`agl_context=...`) that context computes the attention:
`tree_attention.TreeContext` for training (differentiable, no cache), `slots.SlotContext` for the engine. Without one
the model behaves exactly as with `sdpa`, so `model(...)` and `model.generate(...)` keep their meaning.

Called by `learner/` (`run_packed`, `lm_head_weight`) and by `engine.py`; calls torch and transformers.
Hugging Face caches are never used: `use_cache=True` on packed tokens is silently wrong (measured: 5 nats).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from agentlightning.types import ModelError

from .tree_attention import TreeContext

ATTENTION = "agl"
"""Name under which the attention is registered with transformers."""


class AttentionContext(Protocol):
    """Who computes the attention of a packed forward."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention of one layer.

        Args:
            layer: Index of the layer, from 0.
            query: (1, H, T, D) after rotary embedding.
            key: (1, KV, T, D) after rotary embedding; KV divides H.
            value: (1, KV, T, D).
            scale: Factor on the scores.
            window: How many tokens back a token sees, itself included; `None`: all of them.

        Returns:
            (1, T, H, D)
        """
        ...


def packed_hidden_states(model: Any, input_ids: Tensor, cu_seqlens: Sequence[int]) -> Tensor:
    """The last hidden states of segments that lie one after another, as if each were run alone.

    Args:
        model: A Hugging Face causal LM loaded with `attn_implementation="agl"`.
        input_ids: (T,) token ids of all segments.
        cu_seqlens: Where segments begin, then the number of tokens: `[0, 3, 7]` is a segment of 3 and one of 4.

    Returns:
        (T, H), differentiable; `lm_logits` makes logits of any of its rows.

    Raises:
        ValueError: `cu_seqlens` does not cover `input_ids`.
    """
    if len(cu_seqlens) < 2 or cu_seqlens[0] != 0 or cu_seqlens[-1] != len(input_ids):
        raise ValueError(f"`cu_seqlens` must go from 0 to {len(input_ids)}, the number of tokens; got {cu_seqlens!r}")
    positions = torch.cat([torch.arange(b - a) for a, b in pairwise(cu_seqlens)])
    return run_packed(model, input_ids, positions.to(input_ids.device), TreeContext(cu_seqlens))


def run_packed(model: Any, input_ids: Tensor, position_ids: Tensor, context: AttentionContext) -> Tensor:
    """The model's transformer, without its head, on one packed row: (T,) ids and positions give (T, H)."""
    if model.config._attn_implementation != ATTENTION:
        raise ModelError(
            f"the model runs attention `{model.config._attn_implementation}`, packed tokens need `{ATTENTION}`: "
            "load it with `agentlightning.inference.load_model`"
        )
    output = model.get_decoder()(
        input_ids=input_ids[None],
        position_ids=position_ids[None],
        # A mask of four dimensions is passed on as it is. Without it transformers would see restarting positions
        # and build a dense (T, T) mask that nobody reads.
        attention_mask=input_ids.new_zeros((1, 1, 1, 1), dtype=torch.bool),
        use_cache=False,
        agl_context=context,
    )
    return output.last_hidden_state[0]


def lm_head_weight(model: Any) -> Tensor:
    """(V, H): the output embedding, for learners that fuse it into their loss."""
    return model.get_output_embeddings().weight


def lm_head_bias(model: Any) -> Tensor | None:
    """(V,): the output layer's bias, which few models have."""
    return getattr(model.get_output_embeddings(), "bias", None)


def lm_logits(model: Any, hidden: Tensor) -> Tensor:
    """(..., H) hidden states to (..., V) logits."""
    return model.get_output_embeddings()(hidden)


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    agl_context: AttentionContext | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every attention layer (its attention interface)."""
    if agl_context is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **kwargs
        )
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if unsupported:
        raise ModelError(f"`{type(module).__name__}` needs `{unsupported[0]}`, which `agl` attention lacks")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]  # transformers numbers its attention modules
    return agl_context.attend(layer, query, key, value, scale, sliding_window), None


AttentionInterface.register(ATTENTION, _attention_forward)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
