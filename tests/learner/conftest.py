"""A small random model with the packed attention, in float64 so that equalities can be tight."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import agentlightning.inference.attention  # noqa: F401  # registers the attention "agl"


def make_model(seed=0, **changes):
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    config = Qwen2Config(**{**settings, **changes}, attn_implementation="agl")
    return Qwen2ForCausalLM(config).double().eval()


@pytest.fixture
def model():
    return make_model()
