"""A small random model with the packed attention, in float64 so that equalities can be tight."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

import agentlightning.inference.attention  # noqa: F401  # registers the attention "agl"


class Rotary(torch.nn.Module):
    """Angles in float64; transformers computes them in float32 whatever the model's precision."""

    def __init__(self, config):
        super().__init__()
        size = config.hidden_size // config.num_attention_heads
        self.frequencies = config.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2).double() / size)

    def forward(self, x, position_ids):
        angles = (position_ids[..., None].double() * self.frequencies).repeat(1, 1, 2)
        return angles.cos().to(x), angles.sin().to(x)


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
    model = Qwen2ForCausalLM(config).double()
    # transformers rounds to float32 in its norms, too.
    for name, module in list(model.named_modules()):
        if isinstance(module, Qwen2RMSNorm):
            exact = torch.nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=torch.float64)
            model.set_submodule(name, exact)
    model.model.rotary_emb = Rotary(config)
    return model.eval()


@pytest.fixture
def model():
    return make_model()
