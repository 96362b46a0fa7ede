"""A tiny language model made on the spot, for machines without a model hub: examples, tests, first runs.

The architecture is Qwen2's with random weights, the files are Hugging Face's, so that everything which loads a real
model loads this one. It knows nothing until it is fine-tuned. Called by examples and tests, calls transformers.

The tokenizer is Qwen2's kind too (anything else would be replaced by it when `AutoTokenizer` sees the model type): a
byte-level BPE that reads digits one by one, so that what is learnt about copying a number holds for every number. It
is trained on a corpus until each word is one token; other text becomes pieces or bytes, and all text in Unicode's
normal form C round-trips.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import pre_tokenizers, trainers
from transformers import AddedToken, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from agentlightning.inference.loading import save_model
from agentlightning.types import ModelError

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- set system = text(messages[0].content) if messages and messages[0].role == 'system' else '' -%}
{%- if system or tools -%}
  {{- '<|im_start|>system\\n' + system -}}
  {%- for tool in tools or [] -%}
    {%- set function = tool.function or tool -%}
    {%- if system or not loop.first -%}{{- '\\n' -}}{%- endif -%}
    {{- function.name + '(' + ((function.parameters or {}).properties or {}).keys() | join(', ') + ')' -}}
    {%- if function.description -%}{{- ': ' + function.description -}}{%- endif -%}
  {%- endfor -%}
  {{- '<|im_end|>' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role != 'system' or not loop.first -%}
    {{- '<|im_start|>' + message.role + '\\n' + text(message.content) -}}
    {%- for call in message.tool_calls or [] -%}
      {%- set function = call.function or call -%}
      {%- if text(message.content) or not loop.first -%}{{- '\\n' -}}{%- endif -%}
      {{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' -}}
      {{- function.arguments if function.arguments is string else function.arguments | tojson -}}
      {{- '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""ChatML with tool calls as Hermes models write them, and two savings, because a tiny model pays for every token:
no line break between messages, and a tool is shown as `name(parameters): description`. What an assistant said is
rendered exactly as it was sampled, so that a conversation's tokens always continue those of its earlier turns.
"""

_HEADERS = ("system\n", "user\n", "assistant\n", "tool\n")
"""How messages begin after `<|im_start|>`; one token each."""


def tiny_model(
    path: str | os.PathLike[str],
    corpus: Iterable[str],
    *,
    atoms: Sequence[str] = (),
    hidden_size: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    intermediate_size: int = 384,
    vocab_size: int = 1024,
    max_context: int = 512,
    initializer_range: float | None = None,
    residual_scale: float = 0.25,
    seed: int = 0,
) -> Path:
    """Build a small Qwen2 model with random weights and its tokenizer, and save both as a Hugging Face directory.

    Args:
        path: Directory to create; it appears whole or not at all.
        corpus: Texts whose words become single tokens, as far as `vocab_size` reaches.
        atoms: Strings that are one token each wherever they occur, such as the fixed parts of a tool call.
        hidden_size, num_layers, num_heads, num_kv_heads, intermediate_size: The shape; the default has about 0.9 M
            parameters. Embeddings are tied.
        vocab_size: The most tokens there may be; the vocabulary is as small as the corpus allows.
        max_context: Longest sequence in tokens.
        initializer_range: Standard deviation of the weights; `hidden_size ** -0.5` where it is not given. The usual
            0.02 is for wide models: at width 128 it leaves attention blind for the first five hundred steps.
        residual_scale: Factor on the initial weights of what writes into the residual stream, as in GPT-2: the
            embeddings must show through it before copying can be learned. On the calculator problems some seeds had
            not learned to copy numbers after 750 steps with 1.0; with 0.15 to 0.25 all have after 500.
        seed: Decides the weights. The global random state is left as it was.

    Returns:
        `path`.

    Raises:
        ModelError: `path` exists, the shape is impossible, or `vocab_size` leaves no room for words.
    """
    target = Path(path)
    if target.exists():
        raise ModelError(f"`path` {str(target)!r} exists; delete it or name another directory for the tiny model")
    if hidden_size % num_heads or num_heads % num_kv_heads or hidden_size // num_heads % 2:
        raise ModelError(
            f"`num_heads` {num_heads} must divide `hidden_size` {hidden_size} into even parts, and `num_kv_heads` "
            f"{num_kv_heads} must divide `num_heads`"
        )
    tokenizer = _tokenizer(corpus, atoms, vocab_size, max_context)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_context,
        initializer_range=initializer_range or hidden_size**-0.5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=cast(int, tokenizer.eos_token_id),
        pad_token_id=cast(int, tokenizer.pad_token_id),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(residual_scale)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_model(model, tokenizer, partial)
    os.rename(partial, target)
    return target


def _tokenizer(corpus: Iterable[str], atoms: Sequence[str], vocab_size: int, max_context: int) -> Qwen2Tokenizer:
    special = [PAD, START, END]
    plain = [CALL_OPEN, CALL_CLOSE, *_HEADERS, *atoms]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(special) + len(set(plain))
    if vocab_size < least:
        raise ModelError(f"`vocab_size` {vocab_size} leaves no room for words; the least is {least}")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - least + len(alphabet),
        min_frequency=1,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    untrained = Qwen2Tokenizer().backend_tokenizer
    untrained.train_from_iterator(corpus, trainer)
    learnt: dict[str, Any] = json.loads(untrained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=cast(list[str], [tuple(pair) for pair in learnt["merges"]]),  # pairs, though annotated as strings
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_context,
    )
    added: list[str | AddedToken] = [AddedToken(token, special=True, normalized=False) for token in special]
    added += [AddedToken(token, special=False, normalized=False) for token in plain]
    tokenizer.add_tokens(added)
    return tokenizer
