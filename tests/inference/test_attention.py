"""Packed tokens give what each segment gives alone, forwards and backwards."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from agentlightning.inference import lm_head_weight, lm_logits, packed_hidden_states
from agentlightning.types import ModelError

from .conftest import make_model

BOUNDS = [0, 3, 4, 20, 37]


def tokens(count: int = 37) -> torch.Tensor:
    return torch.randint(0, 300, (count,), generator=torch.Generator().manual_seed(1))


def apart(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(T, V) logits of an ordinary forward for each segment."""
    parts = [model(ids[a:b][None]).logits[0] for a, b in pairwise(BOUNDS)]
    return torch.cat(parts)


def mistral(attention: str, seed: int = 0) -> Any:
    """Heads of every kind: no bias, a window of 5 tokens."""
    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        sliding_window=5,
        initializer_range=0.15,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def llama(attention: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        initializer_range=0.15,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


@pytest.mark.parametrize(
    "make", [lambda attention: make_model(attention=attention), llama, mistral], ids=["qwen2", "llama", "mistral"]
)
def test_packed_equals_unpacked(make: Any) -> None:
    ids = tokens()
    expected = apart(make("sdpa"), ids)
    model = make("agl")
    torch.testing.assert_close(lm_logits(model, packed_hidden_states(model, ids, BOUNDS)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_unpacked_model(checkpointing: bool) -> None:
    ids, weights = tokens(), torch.randn(37, generator=torch.Generator().manual_seed(2))
    plain, packed = make_model(attention="sdpa"), make_model()
    if checkpointing:
        packed.train()
        packed.gradient_checkpointing_enable({"use_reentrant": False})
    (torch.log_softmax(apart(plain, ids), -1)[:, 7] * weights).sum().backward()
    logits = lm_logits(packed, packed_hidden_states(packed, ids, BOUNDS))
    (torch.log_softmax(logits, -1)[:, 7] * weights).sum().backward()
    for name, parameter in packed.named_parameters():
        expected = plain.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, expected, atol=2e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_a_segment_is_blind_to_the_others() -> None:
    model, ids = make_model(), tokens()
    changed = ids.clone()
    changed[20:] = 5
    one = packed_hidden_states(model, ids, BOUNDS)
    other = packed_hidden_states(model, changed, BOUNDS)
    torch.testing.assert_close(one[:20], other[:20], atol=1e-6, rtol=0)
    assert not torch.allclose(one[20:], other[20:], atol=1e-2)


def test_without_a_context_the_model_is_an_ordinary_one() -> None:
    plain, ours = make_model(attention="sdpa"), make_model()
    ids = tokens(20).view(2, 10)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    expected = plain(ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(ours(ids, attention_mask=mask).logits[mask.bool()], expected)
    generate = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "attention_mask": mask}
    assert torch.equal(ours.generate(ids, **generate), plain.generate(ids, **generate))


def test_bounds_must_cover_the_tokens() -> None:
    with pytest.raises(ValueError, match="from 0 to 37"):
        packed_hidden_states(make_model(), tokens(), [0, 3, 36])


def test_a_model_with_another_attention_is_refused() -> None:
    with pytest.raises(ModelError, match=r"`sdpa`.*`agl`.*load_model"):
        packed_hidden_states(make_model(attention="sdpa"), tokens(), BOUNDS)


def test_the_head_weight_makes_the_logits() -> None:
    model = make_model()
    hidden = packed_hidden_states(model, tokens(), BOUNDS)
    torch.testing.assert_close(hidden @ lm_head_weight(model).T, lm_logits(model, hidden))
