"""A tiny random Qwen2 with a tokenizer and a chat template, made on the spot, and engines on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from agentlightning.inference import Engine, lm_logits, packed_hidden_states

TEMPLATE = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- if system or tools -%}
{{- '<|im_start|>system\\n' + system -}}
{%- for tool in tools or [] -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' -}}
{%- elif message.role != 'system' -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n' if message.content or not loop.first else '' -}}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- elif not loop.first -%}
{{- raise_exception('the system message must come first') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
CORPUS = ["What is 3 plus 4?", 'calculator {"name": "calculator", "arguments": {"expression": "3 + 4"}}', "### 42 ###"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<tool_call>", "</tool_call>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(*, attention: str = "agl", seed: int = 0, **changes: Any) -> Any:
    """A model with weights twice as large as usual, so that a wrong attention shows.

    Not larger: at 0.15 and temperature 0.5, float32 alone moves Hugging Face's own log-probs by 1.4e-5 (from float64).
    """
    settings: dict[str, Any] = {
        "vocab_size": 352,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.05,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(Qwen2Config(**settings), attn_implementation=attention).eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def model() -> Any:
    """Shared by tests that only read it."""
    return make_model()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_model(attention="sdpa", eos_token_id=tokenizer.eos_token_id).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def endless() -> PreTrainedTokenizerFast:
    """The same tokenizer without an end token: responses are as long as they are asked to be."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    return tokenizer


@pytest.fixture
def start(endless: PreTrainedTokenizerFast) -> Iterator[Callable[..., Engine]]:
    """Makes running engines, on the endless tokenizer by default, and stops them at the end of the test."""
    engines: list[Engine] = []

    def make(model: Any, **settings: Any) -> Engine:
        engine = Engine(model, settings.pop("tokenizer", endless), **settings)
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.stop()


TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "calculator", "parameters": {"properties": {"expression": {}}}}}
]
QUESTION: dict[str, Any] = {"role": "user", "content": "What is 3 plus 4?"}
CALLING: dict[str, Any] = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [{"type": "function", "function": {"name": "calculator", "arguments": {"expression": "3 + 4"}}}],
}
RESULT: dict[str, Any] = {"role": "tool", "content": "7", "tool_call_id": "c"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "### 7 ###"}


@pytest.fixture(scope="session")
def trained(tokenizer: PreTrainedTokenizerFast) -> Any:
    """A model that has learnt one conversation by heart: asked `QUESTION` with `TOOLS`, it says `CALLING`; given
    `RESULT`, it says `ANSWER`."""
    text = tokenizer.apply_chat_template([QUESTION, CALLING, RESULT, ANSWER], tools=TOOLS, tokenize=False)
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    model = make_model(initializer_range=0.05, eos_token_id=tokenizer.eos_token_id)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss = torch.tensor(9.0)
    for _ in range(300):
        logits = lm_logits(model, packed_hidden_states(model, ids, [0, len(ids)]))
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            return model.requires_grad_(False)
    raise AssertionError(f"the conversation was not learnt: loss {loss}")
