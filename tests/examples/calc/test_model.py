"""The example's tiny model keeps an episode short, and reads and writes every problem."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from examples.calc.calculator import TOOL
from examples.calc.data import problems
from examples.calc.demos import demonstrations
from examples.calc.model import build


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(build(tmp_path_factory.mktemp("calc") / "model", hidden_size=32))


def render(tokenizer: Any, messages: list[Any], *, ask: bool) -> list[int]:
    return tokenizer.apply_chat_template(messages, tools=[TOOL], add_generation_prompt=ask, return_dict=False)


def test_every_word_of_every_split_is_one_token(tokenizer: Any) -> None:
    for split in ("train", "test", "test_unseen"):
        for row in problems(split, 200, seed=0):
            tokens = [tokenizer.decode([token]) for token in tokenizer.encode(row["question"])]
            pieces = row["question"].replace(",", " ").replace(".", " ").replace("?", " ").split()
            assert {word for word in pieces if not word.isdigit()} <= {token.strip() for token in tokens}


def test_episodes_are_short_and_continue_exactly(tokenizer: Any) -> None:
    totals: list[int] = []
    sampled: list[int] = []
    for conversation in demonstrations(problems("train", 200, seed=0), seed=0):
        messages = conversation["messages"]
        asked, called = render(tokenizer, messages[:1], ask=True), render(tokenizer, messages[:2], ask=False)
        told, answered = render(tokenizer, messages[:3], ask=True), render(tokenizer, messages, ask=False)
        assert called[: len(asked)] == asked
        assert told[: len(called)] == called
        assert answered[: len(told)] == told
        totals.append(len(answered))
        sampled.append(len(called) - len(asked) + len(answered) - len(told))
    assert sum(totals) / len(totals) < 65
    assert sum(sampled) / len(sampled) < 16


def test_the_tool_costs_few_tokens(tokenizer: Any) -> None:
    ids = render(tokenizer, [{"role": "user", "content": ""}], ask=False)
    assert tokenizer.decode(ids).startswith("<|im_start|>system\ncalculator(expression): work out arithmetic<|im_end|>")
    assert len(ids) <= 12
