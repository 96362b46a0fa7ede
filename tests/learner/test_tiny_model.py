"""The tiny model: Hugging Face's loaders read it, and conversations continue token for token."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from agentlightning.learner.tiny_model import tiny_model
from agentlightning.types import ModelError

CORPUS = ["Tom has 12 apples and buys 5 more.", "calculator(expression): work out arithmetic", "### 1 ###"] * 3
FRAME = ('<tool_call>\n{"name": "calculator", "arguments": {"expression": "', '"}}\n</tool_call>')
TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "work out arithmetic",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    },
}
QUESTION = {"role": "user", "content": "Tom has 12 apples and buys 5 more."}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model", CORPUS, atoms=[*FRAME, " + ", "### "])


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Any:
    return AutoTokenizer.from_pretrained(path)


def render(tokenizer: Any, messages: list[Any], *, tools: list[Any] | None = None, ask: bool = True) -> list[int]:
    return tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=ask, return_dict=False)


def called(arguments: Any, content: str | None = None) -> dict[str, Any]:
    call = {"id": "call_0", "type": "function", "function": {"name": "calculator", "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def call_text(expression: str) -> str:
    return f"{FRAME[0]}{expression}{FRAME[1]}<|im_end|>"


def expressions(count: int) -> list[str]:
    rng = random.Random(0)

    def one(depth: int) -> str:
        if depth == 0:
            return str(rng.randrange(10 ** rng.randint(1, 4)))
        inner = f"{one(depth - 1)}{rng.choice((' + ', ' - ', ' * ', ' / ', '+'))}{one(rng.randrange(depth))}"
        return f"({inner})" if rng.random() < 0.4 else inner

    return [one(rng.randint(0, 3)) for _ in range(count)]


def test_loads_as_a_qwen2_model_of_one_million_parameters(path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(path)
    assert isinstance(model, Qwen2ForCausalLM)
    assert 0.75e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.1e6
    assert model.lm_head.weight is model.model.embed_tokens.weight
    logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape == (1, 3, model.config.vocab_size)
    assert torch.isfinite(logits).all()


def test_model_and_tokenizer_agree(path: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_same_seed_same_weights_and_no_trace_in_the_global_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    paths = [tiny_model(tmp_path / str(n), CORPUS, hidden_size=32, seed=seed) for n, seed in enumerate((1, 1, 2))]
    assert torch.equal(torch.rand(3), expected)
    first, again, other = [AutoModelForCausalLM.from_pretrained(path).model.embed_tokens.weight for path in paths]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert [(path / "tokenizer.json").read_bytes() for path in paths[1:]] == [
        (paths[0] / "tokenizer.json").read_bytes()
    ] * 2


def test_words_are_one_token_and_digits_one_each(tokenizer: Any) -> None:
    text = "Tom has 12 apples and buys 5 more."
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text)]
    assert pieces == ["Tom", " has", " ", "1", "2", " apples", " and", " buys", " ", "5", " more", "."]


def test_a_call_costs_its_expression_and_three_tokens(tokenizer: Any) -> None:
    ids = tokenizer.encode(call_text("12 + 5"))
    assert [tokenizer.decode([token]) for token in ids] == [FRAME[0], "1", "2", " + ", "5", FRAME[1], "<|im_end|>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"{FRAME[0]}12 + 5{FRAME[1]}"


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.text(max_size=5) | st.sampled_from([*FRAME, " + ", " apples", "\n", " 7"])))
def test_any_normalised_text_round_trips(tokenizer: Any, parts: list[str]) -> None:
    text = unicodedata.normalize("NFC", "".join(parts))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_prompt_after_a_call_begins_with_the_prompt_before_and_what_was_sampled(tokenizer: Any) -> None:
    for expression in expressions(300):
        before = render(tokenizer, [QUESTION], tools=[TOOL])
        sampled = tokenizer.encode(call_text(expression))
        result = {"role": "tool", "tool_call_id": "call_0", "content": "17"}
        for arguments in ({"expression": expression}, json.dumps({"expression": expression})):
            after = render(tokenizer, [QUESTION, called(arguments), result], tools=[TOOL])
            assert after[: len(before) + len(sampled)] == before + sampled, expression


@pytest.mark.parametrize("text", ["### 42 ###", "", " two\n\nlines ", "<tool_call>\nhalf a call", "é 漢"])
def test_the_prompt_after_an_answer_begins_with_the_prompt_before_and_what_was_sampled(
    tokenizer: Any, text: str
) -> None:
    before = render(tokenizer, [QUESTION], tools=[TOOL])
    sampled = tokenizer.encode(f"{text}<|im_end|>")
    after = render(tokenizer, [QUESTION, {"role": "assistant", "content": text}, QUESTION], tools=[TOOL])
    assert after[: len(before) + len(sampled)] == before + sampled


def test_text_before_a_call_and_several_calls(tokenizer: Any) -> None:
    message = called({"expression": "1"}, content="Let us see.")
    message["tool_calls"] *= 2
    ids = render(tokenizer, [QUESTION, message], tools=[TOOL], ask=False)
    call = f"{FRAME[0]}1{FRAME[1]}"
    assert tokenizer.decode(ids).endswith(f"<|im_start|>assistant\nLet us see.\n{call}\n{call}<|im_end|>")


def test_the_tools_part_is_short(tokenizer: Any) -> None:
    with_tool, without = (render(tokenizer, [QUESTION], tools=tools) for tools in ([TOOL], None))
    assert len(with_tool) - len(without) <= 12
    assert tokenizer.decode(with_tool).startswith(
        "<|im_start|>system\ncalculator(expression): work out arithmetic<|im_end|><|im_start|>user\n"
    )


def test_system_text_and_tools_without_parameters_or_description(tokenizer: Any) -> None:
    clock = {"type": "function", "function": {"name": "clock"}}
    pair = {"name": "pair", "parameters": {"properties": {"left": {}, "right": {}}}}
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]
    ids = render(tokenizer, [{"role": "system", "content": parts}, QUESTION], tools=[clock, pair])
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nBe short.\nclock()\npair(left, right)<|im_end|>"
        f"<|im_start|>user\n{QUESTION['content']}<|im_end|><|im_start|>assistant\n"
    )


def test_vocabulary_is_no_larger_than_asked_for(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "small", CORPUS, hidden_size=32, vocab_size=280)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert len(tokenizer) == 280
    assert tokenizer.decode(tokenizer.encode(CORPUS[0])) == CORPUS[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"vocab_size": 200}, "`vocab_size` 200"),
        ({"hidden_size": 100, "num_heads": 3}, "`num_heads` 3"),
        ({"num_heads": 4, "num_kv_heads": 3}, "`num_kv_heads` 3"),
    ],
)
def test_impossible_shapes_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=named):
        tiny_model(tmp_path / "model", CORPUS, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ModelError, match="exists; delete it or name another"):
        tiny_model(tmp_path, CORPUS)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
